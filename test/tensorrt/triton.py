# A model repository against Triton's own schema (model_config_pb2 of its Python client): every configuration is read strictly, and what the server
# asks of versions and ensembles is checked. Arguments: the client's folder, the repository. Prints problems as a JSON list.
import importlib.util
import json
import os
import sys

client, repository = sys.argv[1:3]
sys.path.insert(0, client)
spec = importlib.util.spec_from_file_location("model_config_pb2", os.path.join(client, "tritonclient/grpc/model_config_pb2.py"))
schema = importlib.util.module_from_spec(spec)
spec.loader.exec_module(schema)
from google.protobuf import text_format  # noqa: E402

problems, configs = [], {}
for model in sorted(os.listdir(repository)):
    try:
        with open(os.path.join(repository, model, "config.pbtxt"), encoding="utf8") as f:
            configs[model] = text_format.Parse(f.read(), schema.ModelConfig())
    except Exception as error:  # noqa: BLE001
        problems.append(f"{model}: {error}")
for model, c in configs.items():
    say = lambda text, m=model: problems.append(f"{m}: {text}")  # noqa: E731
    versions = [v for v in os.listdir(os.path.join(repository, model)) if v.isdigit() and int(v) > 0]
    if c.name != model:
        say("its name is not its folder's")
    if not versions:
        say("it has no version")
    if not c.input or not c.output:
        say("it has no inputs or no outputs")
    for t in [*c.input, *c.output]:
        if t.data_type == schema.TYPE_INVALID or not t.dims or any(d == 0 or d < -1 for d in t.dims):
            say(f"tensor {t.name} has no type or no dims")
    ensemble = c.platform == "ensemble"
    if ensemble != c.HasField("ensemble_scheduling") or (ensemble and c.backend) or (not ensemble and not c.backend):
        say("it is neither an ensemble nor a backend's model")
    file = c.default_model_filename or ("model.plan" if c.backend == "tensorrt" else "model.onnx")
    for v in versions:
        if not ensemble and not os.path.isfile(os.path.join(repository, model, v, file)):
            say(f"version {v} has no {file}")
    if not ensemble:
        continue
    known = {t.name: (t.data_type, list(t.dims)) for t in c.input}
    used = set()
    for step in c.ensemble_scheduling.step:
        part = configs.get(step.model_name)
        if part is None:
            say(f"its step {step.model_name} is not in the repository")
            continue
        if step.model_version != -1 and str(step.model_version) not in os.listdir(os.path.join(repository, step.model_name)):
            say(f"its step {step.model_name} has no version {step.model_version}")
        if c.max_batch_size > part.max_batch_size:
            say(f"its step {step.model_name} takes smaller batches")
        if set(step.input_map) != {t.name for t in part.input if not t.optional}:
            say(f"its step {step.model_name} does not map every input")
        if not set(step.output_map) <= {t.name for t in part.output}:
            say(f"its step {step.model_name} maps outputs that are not there")
        for port, name in step.input_map.items():
            t = next(x for x in part.input if x.name == port)
            if name not in known:
                say(f"{name} is read before it is made")
            elif known[name][0] != t.data_type or not all(a == b or -1 in (a, b) for a, b in zip(known[name][1], t.dims, strict=True)):
                say(f"{name} is of another type or other dims than {step.model_name} takes")
            used.add(name)
        for port, name in step.output_map.items():
            t = next(x for x in part.output if x.name == port)
            if name in known:
                say(f"{name} is made twice")
            known[name] = (t.data_type, list(t.dims))
    for t in c.output:
        if known.get(t.name, (None,))[0] != t.data_type:
            say(f"its output {t.name} is not made, or of another type")
    for name in {t.name for t in c.input} - used:
        say(f"its input {name} is used by nothing")
print(json.dumps(problems))
