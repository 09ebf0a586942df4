"""Write the trained weights as a checkpoint: `python -m scripts.train_demo.export --folder FOLDER`.

The chat template is the one our formatting is tested against.
"""

import argparse
import shutil
from pathlib import Path

import torch
from torch import Tensor

from qwen35cli.checkpoint.names import theirs
from qwen35cli.checkpoint.whole_file import write_json
from qwen35cli.checkpoint.write import write_checkpoint

from .batches import LIMITS
from .network import raw_config

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "src/qwen35cli/demo"
TEMPLATE = ROOT / "tests/text/chat_template.jinja"
_FLOAT32 = ("A_log", "linear_attn.norm.weight")


def export(state: dict[str, Tensor], tokenizer: Path, folder: Path) -> None:
    """Write a folder in the layout of Hugging Face, bf16 where the real checkpoint is."""
    tensors = {
        theirs(name): weight.to(torch.float32 if name.endswith(_FLOAT32) else torch.bfloat16)
        for name, weight in state.items()
    }
    write_checkpoint(folder, tensors, raw_config())
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    shutil.copyfile(TEMPLATE, folder / "chat_template.jinja")
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": raw_config()["text_config"]["max_position_embeddings"],
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "size": {"longest_edge": LIMITS.max_pixels, "shortest_edge": LIMITS.min_pixels},
            "patch_size": LIMITS.patch_size,
            "temporal_patch_size": LIMITS.temporal_patch_size,
            "merge_size": LIMITS.merge_size,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "Qwen3VLProcessor",
            "image_processor_type": "Qwen2VLImageProcessorFast",
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo-training"))
    parser.add_argument("--out", type=Path, default=DEMO)
    args = parser.parse_args()
    state = torch.load(args.folder / "state.pt", weights_only=True)
    export(state["averaged"], args.folder / "tokenizer.json", args.out)


if __name__ == "__main__":
    main()
