"""Images of a data set that `datasets` streams, from the Hub or a folder: `hf:name`, `hf:name:split`,
`hf:name:config:split`.

A stream has no list of its images; its files are the shards. Needs the extra `train` for `datasets`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from .scoring_inputs import Entry

PREFIX = "hf:"
SHARD_BITS = 32  # `index` of such an image is (number of its file << 32) + its row


@dataclass(frozen=True)
class StreamedDataset:
    """
    One split of a data set.

    Args:
        name (`str`): id on the Hub, or a folder.
        config (`str`, *optional*): configuration, where there are several.
        split (`str`): such as `"test"`.
        column (`str`): of images.
        num_shards (`int`): files of the split.
        digest (`str`): hash over their names and versions.
    """

    name: str
    config: str | None
    split: str
    column: str
    num_shards: int
    digest: str

    def entries(self, shard: int) -> Iterator[Entry]:
        """The images of one file, in order, as they arrive."""
        import datasets

        rows = datasets.load_dataset(self.name, self.config, split=self.split, streaming=True)
        rows = rows.cast_column(self.column, datasets.Image(decode=False)).select_columns([self.column])
        for row, value in enumerate(rows.shard(num_shards=self.num_shards, index=shard)):
            name = f"{PREFIX}{self.name}:{self.split}#{shard}-{row}"
            yield Entry((shard << SHARD_BITS) + row, name.encode(), value[self.column])


def open_stream(text: str) -> StreamedDataset:
    """
    Look up the data set that an argument `hf:...` names.

    Raises:
        ValueError: there are several splits and none is named, or no column of images.
    """
    import datasets

    name, *rest = text.removeprefix(PREFIX).split(":")
    if not name or len(rest) > 2:
        raise ValueError(f"'{text}' is not hf:name, hf:name:split or hf:name:config:split")
    config = rest[0] if len(rest) == 2 else None
    builder = datasets.load_dataset_builder(name, config)
    splits = [str(split) for split in builder.config.data_files]
    split = rest[-1] if rest else splits[0] if len(splits) == 1 else None
    if split not in splits:
        raise ValueError(f"'{text}': name one of the splits {', '.join(splits)}, as in hf:{name}:{splits[0]}")
    stream = datasets.load_dataset(name, config, split=split, streaming=True)
    features = stream.features or {}
    columns = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        raise ValueError(f"'{text}' has no column of images, but {', '.join(features) or 'unknown ones'}")
    files = builder.config.data_files[split]
    told = json.dumps([list(map(str, files)), files.origin_metadata, config], default=str)
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    return StreamedDataset(name, config, split, columns[0], stream.num_shards, digest)


__all__ = ["PREFIX", "StreamedDataset", "open_stream"]
