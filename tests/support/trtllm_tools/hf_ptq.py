# SPDX-License-Identifier: Apache-2.0
"""examples/llm_ptq/hf_ptq.py of NVIDIA/Model-Optimizer: a quantised Hugging Face checkpoint."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from support.trtllm_tools import arguments, devices
from support.trtllm_tools.faults import Faults

_ALGORITHMS = {"fp8": "FP8", "fp8_pc_pt": "FP8_PER_CHANNEL_PER_TOKEN", "nvfp4": "NVFP4"} | {
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
}


def main(root: Path) -> None:
    args = arguments.parse("hf_ptq", sys.argv[1:])
    faults = Faults(root, "hf_ptq.py")
    if args.qformat not in _ALGORITHMS:
        sys.exit(f"AssertionError: Quantization format {args.qformat} not supported for HF export path")
    if args.dataset not in arguments.document("hf_ptq")["datasets"]:
        sys.exit(f"NotImplementedError: dataset {args.dataset} is not supported")
    if not devices.listed(root):
        sys.exit("RuntimeError: Found no NVIDIA driver on your system.")
    source, export = Path(args.pyt_ckpt_path), Path(args.export_path)
    with (root / "runs").open("a", encoding="utf-8") as runs:
        runs.write(f"{export.name} {args.qformat} {args.kv_cache_qformat}\n")
    faults.before_work()
    for path in source.iterdir():
        shutil.copyfile(path, export / path.name)
    kv_cache = None if args.kv_cache_qformat == "none" else args.kv_cache_qformat.upper()
    quantization = {"quant_algo": _ALGORITHMS[args.qformat], "kv_cache_quant_algo": kv_cache}
    document = {"producer": {"name": "modelopt", "version": "0.37.0"}, "quantization": quantization}
    if not (root / "no-hf-quant-config").exists():
        (export / "hf_quant_config.json").write_text(json.dumps(document), encoding="utf-8")
