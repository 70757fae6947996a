#!/usr/bin/env bash
# The GPU suites on a machine with an NVIDIA GPU that may lack Node.js and this project's dependencies: they come from .carry/ where it is there.
#   bash scripts/gpu-smoke.sh [vitest arguments]
# SANITIZE=1 also runs a part of them under compute-sanitizer (memcheck). With OUT set, figures.jsonl and gpu-tests.log are left in that folder.
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
failed=0
node node_modules/vitest/vitest.mjs run --config vitest.gpu.config.ts "$@" 2>&1 | tee "${log:-/dev/null}" || failed=1

if [ "${SANITIZE:-0}" = 1 ]; then
  if command -v compute-sanitizer > /dev/null; then
    compute-sanitizer --tool memcheck --target-processes all --error-exitcode 9 \
      node node_modules/vitest/vitest.mjs run --config vitest.gpu.config.ts test/gpu/executable.test.ts -t "257 floats|launches clusters|tensor maps|dependent launches|clears what" 2>&1 |
      grep -E "COMPUTE-SANITIZER|ERROR SUMMARY|Invalid|Error|✓|×|Tests" || failed=1
  else
    echo "compute-sanitizer is not on the PATH"
  fi
fi
[ $failed = 0 ] && echo "gpu-smoke: passed" || echo "gpu-smoke: FAILED"
exit $failed
