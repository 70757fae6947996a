// The addon's table of functions. Handles and copies only: what to allocate, launch and compile is decided in TypeScript.
#include "driver.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  registerDriver(env, exports);
  registerNvrtc(env, exports);
  return exports;
}

NODE_API_MODULE(partita_native, Init)
