// dlopen with every reason kept: the first library that loads wins; otherwise the message lists each name tried and what the loader said.
#pragma once
#include <string>
#include <vector>

class Library {
 public:
  bool open(const std::vector<std::string>& names, bool global = false);
  void* find(const char* symbol) const;
  const std::string& error() const { return error_; }
  const std::string& path() const { return path_; }
  bool loaded() const { return handle_ != nullptr; }

 private:
  void* handle_ = nullptr;
  std::string path_;
  std::string error_;
};
