/**
 * The Kubernetes manifests and the Containerfile: their fields against Kubernetes' published types, what refers to what, and the very commands of the
 * calibration jobs, run for every index, whose merged file is the unsharded one byte for byte. No cluster and no container engine is used.
 */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import type { Deployment } from "kubernetes-types/apps/v1.js";
import type { Job } from "kubernetes-types/batch/v1.js";
import type { Container, PodSpec, Service } from "kubernetes-types/core/v1.js";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseAllDocuments } from "yaml";
import { calibrate } from "../../src/calibrate.js";
import { calibrationText } from "../../src/quantize/calibration.js";
import { ask, bundleOf, calibrationFiles, cliFile, serverFile, startServer } from "../support/serving.js";

const root = join(import.meta.dirname, "../..");
const manifests = join(root, "examples/kubernetes");
const documents = readdirSync(manifests).flatMap((file) =>
  parseAllDocuments(readFileSync(join(manifests, file), "utf8"), { strict: true, uniqueKeys: true }).map((d) => {
    expect(d.errors, file).toEqual([]);
    return { file, value: d.toJS() as Manifest };
  }),
);
type Manifest = { readonly apiVersion: string; readonly kind: string; readonly metadata: { readonly name: string } };
const named = (name: string, kind: string): unknown =>
  documents.find(({ value }) => value.metadata.name === name && value.kind === kind)?.value;
const job = named("calibrate", "Job") as Job;
const merge = named("calibrate-merge", "Job") as Job;
const deployment = named("partita-server", "Deployment") as Deployment;
const service = named("partita-server", "Service") as Service;
const podOf = (o: Job | Deployment): PodSpec => o.spec?.template.spec as PodSpec;
const containerOf = (o: Job | Deployment): Container => podOf(o).containers[0] as Container;

/** What TypeScript says of objects that are declared to be of Kubernetes' types, by the object's number. */
function faults(objects: readonly Manifest[]): readonly string[][] {
  const source = objects
    .map(
      (o, i) =>
        `export const o${i}: import("kubernetes-types/${o.apiVersion === "v1" ? "core/v1" : o.apiVersion}").${o.kind} = ${JSON.stringify(o)};`,
    )
    .join("\n");
  const file = join(root, "test/examples/manifests.ts");
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: [],
    lib: ["lib.es5.d.ts"],
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    target: ts.ScriptTarget.ES2022,
  };
  const host = ts.createCompilerHost(options);
  const read = host.getSourceFile.bind(host);
  host.getSourceFile = (name, ...rest) => (name === file ? ts.createSourceFile(name, source, ts.ScriptTarget.ES2022) : read(name, ...rest));
  const program = ts.createProgram([file], options, host);
  const found: string[][] = objects.map(() => []);
  for (const d of ts.getPreEmitDiagnostics(program)) {
    const line = d.file === undefined ? 0 : d.file.getLineAndCharacterOfPosition(d.start ?? 0).line;
    found[line]?.push(ts.flattenDiagnosticMessageText(d.messageText, " "));
  }
  return found;
}

describe("manifests", () => {
  it("have only fields that Kubernetes has, of the right types, and all that it wants", () => {
    const bad = (change: (j: { spec: Record<string, unknown> & { template: { spec: Record<string, unknown> } } }) => void): Manifest => {
      const copy = structuredClone(job);
      change(copy as never);
      return copy as Manifest;
    };
    const found = faults([
      ...documents.map((d) => d.value),
      bad((j) => (j.spec["completion"] = 4)),
      bad((j) => (j.spec["completions"] = "4")),
      bad((j) => delete (j.spec as Record<string, unknown>)["template"]),
      bad((j) => delete j.spec.template.spec["containers"]),
      bad((j) => (((j.spec.template.spec["containers"] as Record<string, unknown>[])[0] as Record<string, unknown>)["cmd"] = [])),
    ]);
    expect(found.slice(0, documents.length)).toEqual(documents.map(() => []));
    // The check can fail: another name, another type, what is missing.
    for (const wrong of found.slice(documents.length)) expect(wrong).toHaveLength(1);
    expect(documents.map((d) => `${d.value.apiVersion} ${d.value.kind}`).sort()).toEqual([
      "apps/v1 Deployment",
      "batch/v1 Job",
      "batch/v1 Job",
      "v1 Service",
    ]);
  });
  it("hold together: names, volumes, ports, selectors, what a job's pods may do", () => {
    for (const o of [job, merge, deployment]) {
      expect(o.metadata?.name).toMatch(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/);
      const { volumes = [], containers } = podOf(o);
      expect(volumes.map((v) => v.name).sort()).toEqual(containers.flatMap((c) => (c.volumeMounts ?? []).map((m) => m.name)).sort());
      expect(containerOf(o).volumeMounts?.map((m) => m.mountPath)).toContain(containerOf(o).workingDir);
      expect(containerOf(o).securityContext).toMatchObject({ readOnlyRootFilesystem: true, allowPrivilegeEscalation: false });
    }
    expect(job.spec).toMatchObject({
      completionMode: "Indexed",
      completions: Number(containerOf(job).env?.find((e) => e.name === "SHARDS")?.value),
    });
    expect([podOf(job).restartPolicy, podOf(merge).restartPolicy]).toEqual(["Never", "Never"]);
    expect(job.spec?.podFailurePolicy?.rules.map((r) => r.onExitCodes?.containerName)).toContain(containerOf(job).name);
    const labels = deployment.spec?.template.metadata?.labels;
    expect(deployment.spec?.selector.matchLabels).toEqual(labels);
    expect(service.spec?.selector).toEqual(labels);
    const ports = containerOf(deployment).ports?.map((p) => p.name);
    expect(ports).toContain(service.spec?.ports?.[0]?.targetPort);
    for (const probe of [
      containerOf(deployment).startupProbe,
      containerOf(deployment).readinessProbe,
      containerOf(deployment).livenessProbe,
    ])
      expect(ports).toContain(probe?.httpGet?.port);
  });
});

const folder = mkdtempSync(join(tmpdir(), "partita-kubernetes-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Kubernetes' own expansion of `$(NAME)` in commands and arguments: names that are not set stay as they are, `$$` is a dollar sign. */
const expanded = (text: string, env: Readonly<Record<string, string>>): string =>
  text.replace(/\$\$|\$\(([^)]*)\)/g, (all, name: string | undefined) => (name === undefined ? "$" : (env[name] ?? all)));

describe("the calibration jobs", () => {
  beforeAll(() => {
    calibrationFiles(folder);
    mkdirSync(join(folder, "bin"));
    writeFileSync(join(folder, "bin/partita"), `#!/bin/sh\nexec "${process.execPath}" "${cliFile()}" "$@"\n`, { mode: 0o755 });
  }, 60_000);
  /** Runs a container's command as Kubernetes would, in its working folder. */
  const run = async (o: Job, given: Readonly<Record<string, string>> = {}): Promise<string> => {
    const { command = [], args = [], env = [] } = containerOf(o);
    const all = { ...Object.fromEntries(env.map((e) => [e.name, e.value ?? ""])), ...given };
    const [file = "", ...rest] = [...command, ...args].map((a) => expanded(a, all));
    const child = spawn(file, rest, {
      cwd: folder,
      env: { ...all, PATH: `${join(folder, "bin")}${delimiter}${process.env["PATH"]}` },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    child.stdout.on("data", (c) => (output += c));
    child.stderr.on("data", (c) => (output += c));
    const code = await new Promise((resolve) => child.once("close", resolve));
    expect([code, output]).toEqual([0, expect.any(String)]);
    return output;
  };
  it("run for every index and merged, they give the unsharded calibration, byte for byte", async () => {
    const indices = Array.from({ length: job.spec?.completions ?? 0 }, (_, i) => String(i));
    const said = await Promise.all(indices.map((i) => run(job, { JOB_COMPLETION_INDEX: i })));
    for (const [i, text] of said.entries()) expect(text).toContain(`16 feeds, shard ${i + 1} of ${indices.length}`);
    await run(merge);
    const { calibration } = await calibrate(join(folder, "model.onnx"), { data: join(folder, "feeds.npz") });
    expect(readFileSync(join(folder, "model.calibration.json"), "utf8")).toBe(calibrationText(calibration));
  });
});

describe("the server's deployment", () => {
  it("its arguments start the server, its probes are answered, and it ends within the pod's grace period", async () => {
    const { args = [], startupProbe, readinessProbe, livenessProbe } = containerOf(deployment);
    const flags = args.map((a) => (a.startsWith("--host=") ? "--host=127.0.0.1" : a.startsWith("--port=") ? "--port=0" : a));
    const [, name, path] = /^--model=(\w+)=(.*)$/.exec(args.find((a) => a.startsWith("--model=")) ?? "") ?? [];
    expect(path).toBe("digits.partita");
    const bundle = await bundleOf(folder, "digits", `graph "g" opset {"": 18} (%x: float32[N]) -> (%y) { %y = Exp(%x) }`);
    expect(bundle).toBe(join(folder, path as string));
    const s = await startServer({}, flags, "ready", folder);
    try {
      for (const probe of [startupProbe, readinessProbe, livenessProbe])
        expect((await ask(s.port, probe?.httpGet?.path ?? "")).status).toBe(200);
      expect((await ask(s.port, `/v2/models/${name}`)).status).toBe(200);
    } finally {
      s.child.kill("SIGTERM");
    }
    const ms = (flag: string): number => Number(args.find((a) => a.startsWith(`--${flag}=`))?.split("=")[1]);
    // One second until clients that do not read are cut off, five to release the models.
    expect(1000 * (podOf(deployment).terminationGracePeriodSeconds ?? 0)).toBeGreaterThan(ms("grace-ms") + ms("drain-ms") + 6000);
    // A second signal cuts the grace short.
    s.child.kill("SIGTERM");
    await s.exited;
  });
  it("the Containerfile installs what the example imports, and starts it", () => {
    const text = readFileSync(join(root, "examples/server/Containerfile"), "utf8").replace(/\\\n/g, " ");
    const lines = text.split("\n").filter((l) => l !== "" && !l.startsWith("#"));
    for (const line of lines) expect(line).toMatch(/^(FROM|ARG|WORKDIR|COPY|RUN|ENV|USER|EXPOSE|ENTRYPOINT) \S/);
    const { devDependencies, files } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
      devDependencies: Record<string, string>;
      files: string[];
    };
    const install = lines.find((l) => l.startsWith("RUN npm install --prefix /app ")) ?? "";
    for (const library of ["fastify", "prom-client"])
      expect(install).toContain(`${library}@${/\d+/.exec(devDependencies[library] ?? "")?.[0]}`);
    const entry = JSON.parse(lines.find((l) => l.startsWith("ENTRYPOINT"))?.slice("ENTRYPOINT ".length) ?? "[]") as string[];
    expect(entry).toEqual(["node", "/app/node_modules/partita/examples/server/main.js"]);
    expect(files).toContain("examples");
    expect(serverFile().endsWith("examples/server/main.js")).toBe(true);
    expect(lines.findLast((l) => l.startsWith("EXPOSE"))).toBe(`EXPOSE ${containerOf(deployment).ports?.[0]?.containerPort}`);
  });
});
