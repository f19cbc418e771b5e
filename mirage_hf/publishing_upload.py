"""Sends what [`plan_push`] put together to the Hub, in one commit; a killed upload goes on where it stopped.

Large files go first and stay on the Hub under their hash: the next try doesn't send them again. The commit
that makes the files visible comes last, so a repository never holds half of a detector.
"""

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from .publishing import PushPlan
from .publishing_files import EXPORT_FOLDER, RESULTS_FOLDER

OF_A_NEW_REPOSITORY = (".gitattributes", "README.md")


def upload(plan: PushPlan) -> str:
    """
    Makes repository and branch where they are missing, and sends the files. Results, exports and code of an earlier
    push that this one doesn't have are deleted in the same commit.

    Returns:
        `str`: URL of the commit.

    Raises:
        OSError: the Hub can't be reached or refuses.
        ValueError: nobody is logged in, or the repository holds something else.
    """
    if get_token() is None:
        raise ValueError("nobody is logged in at the Hub: run `hf auth login`, or set HF_TOKEN")
    args = plan.arguments
    try:
        return _upload(plan, HfApi())
    except HfHubHTTPError as error:
        raise OSError(explain(error, args.repo_id)) from error
    except httpx.HTTPError as error:
        raise OSError(
            f"the Hub can't be reached ({type(error).__name__}): what arrived stays there, run the command again"
        ) from error


def _upload(plan: PushPlan, api: HfApi) -> str:
    args = plan.arguments
    make_repository(api, args.repo_id, args.private)
    if args.revision not in (None, "main"):
        api.create_branch(args.repo_id, branch=str(args.revision), exist_ok=True)
    paths = {file.path for file in plan.files}
    stale = [
        path
        for path in api.list_repo_files(args.repo_id, revision=args.revision)
        if path not in paths and is_ours(path)
    ]
    additions = [CommitOperationAdd(file.path, str(file.source)) for file in plan.files]
    commit = api.create_commit(
        args.repo_id,
        [*additions, *(CommitOperationDelete(path) for path in stale)],
        commit_message=f"Detector with {plan.kind} weights",
        revision=args.revision,
    )
    return str(commit.commit_url)


def make_repository(api: HfApi, repo_id: str, private: bool) -> None:
    """
    Makes the repository; one that is there must hold a detector of this package, or nothing yet.

    Raises:
        ValueError: it holds something else, or is public and was to be private.
    """
    try:
        api.create_repo(repo_id, private=True if private else None)
        return
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
    info = api.model_info(repo_id)
    if private and not info.private:
        raise ValueError(f"{repo_id} is there and public: make it private on its page, or choose another name")
    names = {sibling.rfilename for sibling in info.siblings or []}
    if names - set(OF_A_NEW_REPOSITORY) and "configuration_mirage.py" not in names:
        other = min(names - set(OF_A_NEW_REPOSITORY))
        raise ValueError(f"{repo_id} is there and holds something else ({other}): choose another name")


def is_ours(path: str) -> bool:
    """Whether a file is of the kinds that each push replaces as a whole."""
    folder, _, name = path.rpartition("/")
    return folder.split("/")[0] in (RESULTS_FOLDER, EXPORT_FOLDER) or (not folder and name.endswith(".py"))


def explain(error: HfHubHTTPError, repo_id: str) -> str:
    """What a refusal of the Hub means here, in a line."""
    status = error.response.status_code
    if status == 401:
        return "the Hub doesn't know the token: run `hf auth login` again, or set HF_TOKEN to one that may write"
    if status == 403:
        return f"the token may not write to {repo_id}: take one with the right to write, or another owner"
    if status == 404:
        return f"the Hub has no {repo_id} that this token may see"
    if status >= 500:
        return f"the Hub failed ({status}): what arrived stays there, run the command again"
    return f"the Hub refused ({status}): {' '.join(str(error).split())}"


__all__ = ["upload"]
