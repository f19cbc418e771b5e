"""Loads data sets and shows parts of them that tests compare."""

from mirage_hf.data import load_detection_dataset


def load(root, **options):
    """The data set and its report."""
    return load_detection_dataset(root, return_report=True, **options)


def counts(root, **options):
    """Numbers of real and of fake images by generator."""
    return load(root, **options)[1].counts


def described(dataset):
    """The rows without their images."""
    return list(dataset.select_columns(["path", "label", "generator"]))


def paths(dataset):
    return [row["path"] for row in described(dataset)]


def labels_by_folder(dataset, folders):
    """The set of labels of the rows whose path goes through each folder."""
    return {
        folder: {row["label"] for row in dataset.select_columns(["label", "path"]) if f"/{folder}/" in row["path"]}
        for folder in folders
    }


def counted(function, calls):
    """The function, which notes the arguments of its calls in a list."""

    def counting(*args):
        calls.append(args)
        return function(*args)

    return counting
