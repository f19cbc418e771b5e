"""Where ONNX Runtime and OpenVINO spend the time of a forward pass, by kind of operator, as they say themselves."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from mirage_hf.backends import INPUT_NAME, MODEL_FILE, OpenVINOBackend, load_backend
from mirage_hf.signal_stack import kept_signal_stack


def profile_onnx(folder: Path, pixel_values: np.ndarray, threads: int, most: int = 8) -> dict[str, float]:
    """Shares of the kinds of operator; the rest as one."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as temporary:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, f"{temporary}/profile"
        session = onnxruntime.InferenceSession(folder / MODEL_FILE, options, providers=["CPUExecutionProvider"])
        for _ in range(3):
            session.run(None, {INPUT_NAME: pixel_values})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"]
    return _shares(times, most)


def profile_openvino(
    folder: Path, pixel_values: np.ndarray, threads: int, dtype: str, most: int = 8
) -> dict[str, float]:
    """Shares of the kinds of operator; the rest as one."""
    backend = load_backend(folder, "openvino", threads, dtype)  # which keeps the package from reporting its import
    assert isinstance(backend, OpenVINOBackend)
    import openvino

    options = {"NUM_STREAMS": 1, "PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads}
    options |= {"INFERENCE_PRECISION_HINT": backend.precision, "ENABLE_CPU_PINNING": False}
    with kept_signal_stack():
        compiled = openvino.Core().compile_model(str(folder / MODEL_FILE), "CPU", options)
    request = compiled.create_infer_request()
    for _ in range(3):
        request.infer({INPUT_NAME: pixel_values})
    times: Counter[str] = Counter()
    for node in request.profiling_info:
        times[node.node_type] += node.real_time.total_seconds()
    return _shares(times, most)


def _shares(times: Counter[str], most: int) -> dict[str, float]:
    whole = sum(times.values())
    largest = times.most_common(most)
    shares = {name: round(time / whole, 3) for name, time in largest}
    return shares | {"all others": round(1 - sum(time for _, time in largest) / whole, 3)}


__all__ = ["profile_onnx", "profile_openvino"]
