#include "library.h"

#include <dlfcn.h>

bool Library::open(const std::vector<std::string>& names, bool global) {
  error_.clear();
  for (const auto& name : names) {
    // Libraries stay loaded for the life of the process: drivers register exit handlers that must not be unmapped.
    void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_NODELETE | (global ? RTLD_GLOBAL : RTLD_LOCAL));
    if (handle != nullptr) {
      handle_ = handle;
      path_ = name;
      return true;
    }
    const char* why = dlerror();
    if (!error_.empty()) error_ += "; ";
    error_ += why != nullptr ? why : name + ": unknown loader error";
  }
  return false;
}

void* Library::find(const char* symbol) const { return handle_ == nullptr ? nullptr : dlsym(handle_, symbol); }
