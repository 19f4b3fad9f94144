"""python embed.py PICTURE... [--out embeddings.npy]; needs numpy, pillow, and torch (graph.pt2, model.pt2) or onnxruntime."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


class Embedder:
    """The network of a folder: `Embedder(folder)(pictures)` gives [N, D] float32 embeddings of unit length."""

    def __init__(self, folder: Path | str = Path(__file__).parent) -> None:
        self.folder = Path(folder)
        self.info: dict[str, Any] = json.loads((self.folder / "model.json").read_text(encoding="utf-8"))
        self.run = self._program(self.info["extra"]["runs"]["program"])

    def __call__(self, pictures: list[Any], batch: int = 32) -> np.ndarray[Any, Any]:
        """`pictures` are paths, open files, or PIL images; `batch` of them are computed at a time."""
        parts = [pictures[at : at + batch] for at in range(0, len(pictures), batch)]
        return np.concatenate([self.run(np.stack([self.pixels(picture) for picture in part])) for part in parts])

    def pixels(self, picture: Any) -> np.ndarray[Any, Any]:
        """[3, H, W] float32 in [0, 1]: shorter side reduced, then the centre square, as in training."""
        image, steps = rgb(picture), self.info["preprocessing"]
        short, size = steps["resize_shorter_side"], steps["center_crop"]
        width, height = (int(short * side / min(image.size)) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), Image.Resampling[steps["interpolation"].upper()])
        return np.asarray(image.crop((left, top, left + size, top + size)), np.float32).transpose(2, 0, 1) / np.float32(255)

    def _program(self, name: str) -> Any:
        for file in {name, "weights.safetensors"} & set(self.info["checksums"]):
            if hashlib.sha256((self.folder / file).read_bytes()).hexdigest() != self.info["checksums"][file]:
                raise SystemExit(f"{self.folder / file}: damaged or altered; pull it again")
        if name.endswith(".onnx"):
            from onnxruntime import InferenceSession, get_available_providers

            session = InferenceSession(self.folder / name, providers=get_available_providers())
            return lambda images: session.run(["embedding"], {"images": images})[0]
        import torch

        program: Any = torch.export.load(self.folder / name).module()
        weights = [{key: torch.from_numpy(array) for key, array in self._arrays()}] if name == "graph.pt2" else []
        return lambda images: program(*weights, torch.from_numpy(images)).detach().numpy()

    def _arrays(self) -> Any:
        content = bytearray((self.folder / "weights.safetensors").read_bytes())
        start = 8 + int.from_bytes(content[:8], "little")  # a JSON header, then the bytes of the tensors
        for key, at in sorted(json.loads(content[8:start]).items()):
            first, last = (start + offset for offset in at["data_offsets"])
            kind = np.dtype(f"<{at['dtype'][0].lower()}{int(at['dtype'][1:]) // 8}")  # F32 is NumPy's <f4
            yield key, np.frombuffer(content[first:last], kind).reshape(at["shape"])


def rgb(picture: Any) -> Image.Image:
    """A picture upright (EXIF), transparency on white, 16-bit grey scaled to 8."""
    image = ImageOps.exif_transpose(picture if isinstance(picture, Image.Image) else Image.open(picture))
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.clip(np.asarray(image, np.float64) / 257, 0, 255)).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pictures to embeddings: [N, D] float32 of unit length, as .npy.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--out", default="embeddings.npy")
    options = parser.parse_args()
    np.save(options.out, found := Embedder()(options.pictures))
    print(f"{options.out}: {len(found)} pictures, {found.shape[1]} numbers each")
