/** What the CUDA engine's tests need of the machine: NVRTC, or the reason to skip. */
import { compilerInfo } from "../../src/engines/cuda/compiler.js";

/** Why nothing can be compiled here, or undefined when it can. */
export const compilerMissing: string | undefined = await compilerInfo().then(
  () => undefined,
  (error: Error) => error.message.split("\n")[0],
);
/** The name of a suite that compiles: it says so when it is skipped. */
export const needsCompiler = (name: string): string =>
  compilerMissing === undefined ? name : `${name} (skipped: no CUDA compiler; set PARTITA_NVRTC_DIR)`;
