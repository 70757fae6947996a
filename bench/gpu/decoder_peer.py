"""Torch's eager generation with a decoder's weights from weights.bin, in the order of weights.json: greedy, with its own cache. Prints one line of JSON."""
import json
import sys
import time

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

folder = sys.argv[1]
said = json.load(open(f"{folder}/weights.json"))
sizes = {"layers": 12, "hidden": 768, "heads": 12, "vocabulary": 50257, "positions": 1024, **said["sizes"]}
device = "cuda" if torch.cuda.is_available() else "cpu"
config = GPT2Config(
    vocab_size=sizes["vocabulary"], n_positions=sizes["positions"], n_embd=sizes["hidden"], n_layer=sizes["layers"], n_head=sizes["heads"],
    eos_token_id=None, bos_token_id=None, pad_token_id=None,
)
model = GPT2LMHeadModel(config).eval()
blob = np.memmap(f"{folder}/weights.bin", dtype=np.float32, mode="r")
state, at = {}, 0
for entry in said["index"]:
    count = int(np.prod(entry["dims"]))
    state[entry["name"]] = torch.from_numpy(np.array(blob[at : at + count])).reshape(entry["dims"])
    at += count
state["lm_head.weight"] = state["transformer.wte.weight"]
missing = model.load_state_dict(state, strict=False)
assert not missing.unexpected_keys and not [k for k in missing.missing_keys if not k.endswith((".attn.bias", ".masked_bias"))], missing
sync = torch.cuda.synchronize if device == "cuda" else (lambda: None)


@torch.inference_mode()
def greedy(m):
    ids, past, tokens, times = torch.tensor([[said["prompt"]]], device=device), None, [], []
    for _ in range(said["tokens"]):
        begin = time.perf_counter()
        out = m(input_ids=ids, past_key_values=past, use_cache=True)
        past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
        tokens.append(int(ids))  # Waits for the device, as whoever reads the token does.
        times.append(time.perf_counter() - begin)
    return tokens, 1000 * float(np.mean(times[said["warm"] :]))


@torch.inference_mode()
def library(m):
    ids = torch.tensor([[said["prompt"]]], device=device)
    many = dict(do_sample=False, use_cache=True, min_new_tokens=said["tokens"], max_new_tokens=said["tokens"], attention_mask=torch.ones_like(ids))
    m.generate(ids, **{**many, "min_new_tokens": 8, "max_new_tokens": 8})
    sync()
    begin = time.perf_counter()
    m.generate(ids, **many)
    sync()
    return 1000 * (time.perf_counter() - begin) / said["tokens"]


result = {"version": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)) if device == "cuda" else (("fp32", torch.float32),):
    m = model.to(device=device, dtype=dtype)
    tokens, ms = greedy(m)
    tokens, ms = greedy(m)
    try:
        generate = library(m)
    except Exception as error:  # The loop above is the same work.
        generate = str(error)[:200]
    result[name] = {"msPerToken": min([ms] + ([generate] if isinstance(generate, float) else [])), "loop": ms, "generate": generate}
    if name == "fp32":
        result["tokens"] = tokens
print(json.dumps(result))
