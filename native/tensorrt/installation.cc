#include "installation.h"

#include <array>
#include <vector>

#include "../src/driver.h"
#include "../src/state.h"
#include "neighbours.h"
#include "tensorrt.h"

namespace tensorrt {

namespace {

template <class F>
void find(Napi::Env env, const Library& library, const char* symbol, F& f, bool needed = true) {
  f = reinterpret_cast<F>(library.find(symbol));
  if (f == nullptr && needed) throw nativeError(env, "dlsym", -1, library.path() + " has no " + symbol);
}

std::mutex opening;
// Never destroyed: TensorRT's threads may still log while the process ends.
std::vector<std::unique_ptr<Installation>>& all() {
  static auto& list = *new std::vector<std::unique_ptr<Installation>>;
  return list;
}

Napi::Object describe(Napi::Env env, size_t id) {
  const Installation& i = *all()[id];
  auto out = Napi::Object::New(env);
  out["id"] = static_cast<double>(id);
  out["version"] = i.version();
  if (i.hasParser()) out["parserVersion"] = i.parserVersion();
  if (i.bound()) out["family"] = i.family().name;
  return out;
}

// open(library, parser | undefined): { id, version, parserVersion?, family? }. The same library opened again is the same.
Napi::Value Open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string library = text(env, info[0], "library"), parser = info[1].IsUndefined() ? "" : text(env, info[1], "parser");
  const std::lock_guard<std::mutex> guard(opening);
  auto& list = all();
  for (size_t i = 0; i < list.size(); i++)
    if (list[i]->path() == library) {
      if (!parser.empty()) list[i]->addParser(env, parser);
      return describe(env, i);
    }
  list.push_back(std::make_unique<Installation>(env, library, parser));
  return describe(env, list.size() - 1);
}

// bind(id, family): from now on the library is called by that family's slots. Which family is right is decided in TypeScript.
Napi::Value Bind(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const uint64_t id = number(env, info[0], "id");
  const std::string family = text(env, info[1], "family");
  const std::lock_guard<std::mutex> guard(opening);
  if (id >= all().size()) throw Napi::TypeError::New(env, "no library was opened as " + std::to_string(id));
  if (!all()[id]->bind(family)) throw Napi::TypeError::New(env, "there is no family of TensorRT versions called '" + family + "'");
  return env.Undefined();
}

}  // namespace

Installation::Installation(Napi::Env env, const std::string& library, const std::string& parser) {
  loadAmongNeighbours(library);
  if (!core_.open({library})) throw nativeError(env, "dlopen", -1, core_.error());
  int32_t (*version)() = nullptr;
  find(env, core_, "getInferLibVersion", version);
  find(env, core_, "createInferBuilder_INTERNAL", createBuilder_);
  find(env, core_, "createInferRuntime_INTERNAL", createRuntime_);
  find(env, core_, "createInferRefitter_INTERNAL", createRefitter_);
  version_ = version();
  if (!parser.empty()) addParser(env, parser);
}

void Installation::addParser(Napi::Env env, const std::string& parser) {
  if (parser_.loaded()) return;
  // The parser's own references go to the core library, which is loaded already under its soname.
  Library opened;
  if (!opened.open({parser})) throw nativeError(env, "dlopen", -1, opened.error());
  int (*version)() = nullptr;
  find(env, opened, "getNvOnnxParserVersion", version);
  find(env, opened, "createNvOnnxParser_INTERNAL", createParser_);
  find(env, opened, "createNvOnnxParserRefitter_INTERNAL", createParserRefitter_, false);
  parserVersion_ = version();
  parser_ = opened;
}

bool Installation::bind(const std::string& family) {
  if (family_ != nullptr) return family == family_->name;
  for (const Family* f : std::array<const Family*, 4>{&family10, &family11, &familyRtx13, &familyRtx15})
    if (family == f->name) {
      family_ = f;
      abi_ = {f->slots, version_ / 100 % 100};
      logger_ = f->logger(log_);
      return true;
    }
  return false;
}

Builder Installation::takeBuilder(cuda::Context context) {
  {
    const std::lock_guard<std::mutex> guard(idle_);
    for (auto it = builders_.begin(); it != builders_.end(); ++it)
      if (it->first == context) {
        Builder found = std::move(it->second);
        builders_.erase(it);
        return found;
      }
  }
  return {abi_, createBuilder_(logger_->address(), version_)};
}

void Installation::giveBuilder(cuda::Context context, Builder builder) {
  const std::lock_guard<std::mutex> guard(idle_);
  for (const auto& [of, other] : builders_)
    // A second one, of a call beside that call, ends here.
    if (of == context) return;
  builders_.emplace_back(context, std::move(builder));
}

void Installation::endBuilders() {
  std::vector<std::pair<cuda::Context, Builder>> gone;
  {
    const std::lock_guard<std::mutex> guard(idle_);
    gone.swap(builders_);
  }
  for (auto& [context, builder] : gone) {
    if (context == nullptr) {
      builder.reset();
      continue;
    }
    const Current current(context);
    builder.reset();
  }
}

Installation& installation(Napi::Env env, const Napi::Value& id) {
  const uint64_t n = number(env, id, "library");
  const std::lock_guard<std::mutex> guard(opening);
  if (n >= all().size() || !all()[n]->bound()) throw Napi::TypeError::New(env, "expected an opened and bound TensorRT library, got " + std::to_string(n));
  return *all()[n];
}

void registerInstallation(Napi::Env env, Napi::Object exports) {
  exports["open"] = Napi::Function::New(env, Open, "open");
  exports["bind"] = Napi::Function::New(env, Bind, "bind");
  // While contexts still live.
  napi_add_env_cleanup_hook(env, [](void*) {
    const std::lock_guard<std::mutex> guard(opening);
    for (const auto& i : all()) i->endBuilders();
  }, nullptr);
}

}  // namespace tensorrt
