#!/usr/bin/env bash
# The GPU suites on a machine with an NVIDIA GPU that may lack Node.js and this project's dependencies: they come from .carry/ where it is there.
#   bash scripts/gpu-smoke.sh [vitest arguments]
# They renew kernels/ledger.json. With OUT set, figures.jsonl, gpu-tests.json, gpu-tests.log and the ledger are left in that folder.
# SANITIZE=1 runs scripts/gpu-sanitize.sh behind them.
set -uo pipefail
cd "$(dirname "$0")/.."

# shellcheck disable=SC1091
command -v node > /dev/null || { [ -f .carry/use.sh ] && source .carry/use.sh; }
command -v node > /dev/null || { echo "gpu-smoke: there is no Node.js on the PATH and no .carry/" >&2; exit 2; }
[ -f node_modules/vitest/vitest.mjs ] || { echo "gpu-smoke: node_modules has no vitest: run npm ci" >&2; exit 2; }
echo "node $(node --version), $(nproc) cores"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null || echo "nvidia-smi is not there"

if [ -z "${PARTITA_NVRTC_DIR:-}" ]; then
  python_lib=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2> /dev/null || true)
  for folder in ${python_lib:+"$python_lib/nvidia/cu13/lib" "$python_lib/nvidia/cuda_nvrtc/lib"} /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib; do
    if compgen -G "$folder/libnvrtc.so.*" > /dev/null; then
      export PARTITA_NVRTC_DIR=$folder
      break
    fi
  done
fi
if [ -n "${PARTITA_NVRTC_DIR:-}" ]; then
  echo "NVRTC in $PARTITA_NVRTC_DIR:"
  ls "$PARTITA_NVRTC_DIR" | grep -i nvrtc
else
  echo "no NVRTC was found by this script; nvcc: $(command -v nvcc || echo none)"
fi
export PARTITA_REQUIRE_GPU=1 UV_THREADPOOL_SIZE=${UV_THREADPOOL_SIZE:-12} NO_COLOR=1

log=${OUT:+$OUT/gpu-tests.log}
reporters=(--reporter=verbose ${OUT:+--reporter=json --outputFile.json="$OUT/gpu-tests.json"})
failed=0
node node_modules/vitest/vitest.mjs run --config vitest.gpu.config.ts "${reporters[@]}" "$@" > >(tee "${log:-/dev/null}" | grep -aE "figure|✓|×|Tests|Error|^ *[+-] " | cut -c1-300) 2>&1 || failed=1

if [ "${SANITIZE:-0}" = 1 ]; then bash scripts/gpu-sanitize.sh || failed=1; fi
[ $failed = 0 ] && echo "gpu-smoke: passed" || echo "gpu-smoke: FAILED"
exit $failed
