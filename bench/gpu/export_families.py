"""Networks of timm with seeded random weights, as ONNX files with the run of PyTorch beside them: OUT/torch/<name>/model.onnx and io.npz.

    python3 bench/gpu/export_families.py OUT [name ...]

They stand for families that no recorded model has; bench/gpu/models.mjs runs them like the recorded ones.
"""
import os
import sys

import numpy
import timm
import torch

NAMES = ["efficientnet_b0", "densenet121", "convnext_tiny", "swin_tiny_patch4_window7_224"]
out = sys.argv[1]
for name in sys.argv[2:] or NAMES:
    torch.manual_seed(0)
    folder = os.path.join(out, "torch", f"timm_{name}")
    try:
        model = timm.create_model(name, pretrained=False, exportable=True).eval()
        # Statistics of a network that has seen data, so that activations keep their size through the depth.
        x = torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 1.0
                    module.train()
            model(torch.randn(4, 3, 224, 224))
            model.eval()
            y = model(x)
        os.makedirs(folder, exist_ok=True)
        partial = os.path.join(folder, "model.part")
        torch.onnx.export(model, (x,), partial, opset_version=17, input_names=["image"], output_names=["logits"], dynamo=False)
        numpy.savez(os.path.join(folder, "io.npz"), in_0=x.numpy(), out_0=y.numpy())
        os.rename(partial, os.path.join(folder, "model.onnx"))
        print("exported", name, tuple(y.shape), float(y.abs().max()), flush=True)
    except Exception as error:
        print("failed", name, repr(error)[:400], flush=True)
