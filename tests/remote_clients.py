"""Programs that load published detectors: `python -I remote_clients.py CLIENT OUTPUT IMAGES NAME...`.

`remote` may not have the package and trusts the code beside the weights; `package` imports it and trusts none. Of each
name the logits and scores are written to OUTPUT, or the error.
"""

import json
import sys
from pathlib import Path


def load_all(images: list, names: list[str], **options) -> dict:
    import torch
    from transformers import AutoModel, AutoModelForImageClassification, pipeline

    pixel_values = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found: dict = {}
    for name in names:
        repo_id, _, revision = name.partition("@")
        where = options | ({"revision": revision} if revision else {})
        answer = found[name] = {}
        try:
            for cls in (AutoModel, AutoModelForImageClassification):
                model = cls.from_pretrained(repo_id, **where)
                with torch.inference_mode():
                    answer[cls.__name__] = model(pixel_values=pixel_values).logits.tolist()
                answer["module"] = type(model).__module__
            results = pipeline("image-classification", model=repo_id, device="cpu", **where)(images)
            answer["scores"] = [{entry["label"]: entry["score"] for entry in result} for result in results]
        except Exception as error:
            answer["error"] = [*(cls.__name__ for cls in type(error).__mro__), str(error)]
    return found


def main(client: str, output: str, images: str, *names: str) -> None:
    found = {}
    try:
        import mirage_hf  # noqa: F401
    except ImportError as error:
        found["import"] = str(error)
    if (client == "remote") != ("import" in found):
        raise SystemExit(f"the package is {'missing' if 'import' in found else 'here'}, for client {client}")
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in sorted(Path(images).rglob("*.png"))]
    options = {"trust_remote_code": True} if client == "remote" else {}
    found |= load_all(pictures, list(names), **options)
    Path(output).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
