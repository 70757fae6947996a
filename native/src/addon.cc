// The addon's table of functions. Handles and copies only: what to allocate, launch and compile is decided in TypeScript.
#include "driver.h"
#include "state.h"
#include "../tensorrt/tensorrt.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new State);
  exports["sourceHash"] = Napi::String::New(env, PARTITA_SOURCE_HASH);
  registerState(env, exports);
  registerDevice(env, exports);
  registerMemory(env, exports);
  registerLaunch(env, exports);
  registerExecute(env, exports);
  registerEvent(env, exports);
  registerNvml(env, exports);
  registerNvtx(env, exports);
  registerTensorMap(env, exports);
  registerNvrtc(env, exports);
  registerTensorRt(env, exports);
  return exports;
}

NODE_API_MODULE(partita_native, Init)
