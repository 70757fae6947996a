#include "neighbours.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace tensorrt {

namespace {

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#else
constexpr Elf64_Half kMachine = EM_AARCH64;
#endif
// The largest page size of either.
constexpr Elf64_Xword kPage = 0x10000;

// A shared library without code: one segment that holds everything, from the file's first byte on, so that offsets are addresses.
struct Image {
  Elf64_Ehdr head;
  Elf64_Phdr segments[3];
  Elf64_Dyn dynamic[8];
  Elf64_Sym none;
  Elf64_Word hash[4];
};

std::string imageOf(const std::string& needed, const std::string& folder) {
  Image image = {};
  const std::string strings = std::string(1, '\0') + needed + '\0' + folder + '\0';
  const Elf64_Xword size = sizeof image + strings.size();
  auto& h = image.head;
  std::memcpy(h.e_ident, ELFMAG, SELFMAG);
  h.e_ident[EI_CLASS] = ELFCLASS64;
  h.e_ident[EI_DATA] = ELFDATA2LSB;
  h.e_ident[EI_VERSION] = EV_CURRENT;
  h.e_type = ET_DYN;
  h.e_machine = kMachine;
  h.e_version = EV_CURRENT;
  h.e_phoff = offsetof(Image, segments);
  h.e_ehsize = sizeof(Elf64_Ehdr);
  h.e_phentsize = sizeof(Elf64_Phdr);
  h.e_phnum = 3;
  const auto segment = [](Elf64_Word type, Elf64_Off at, Elf64_Xword bytes, Elf64_Xword align) {
    Elf64_Phdr p = {};
    p.p_type = type;
    p.p_flags = PF_R | PF_W;
    p.p_offset = p.p_vaddr = p.p_paddr = at;
    p.p_filesz = p.p_memsz = bytes;
    p.p_align = align;
    return p;
  };
  image.segments[0] = segment(PT_LOAD, 0, size, kPage);
  image.segments[1] = segment(PT_DYNAMIC, offsetof(Image, dynamic), sizeof image.dynamic, 8);
  // Without it the loader takes the library for one that wants an executable stack.
  image.segments[2] = segment(PT_GNU_STACK, 0, 0, 16);
  const Elf64_Xword table = sizeof image;
  const struct {
    Elf64_Sxword tag;
    Elf64_Xword value;
  } entries[] = {{DT_NEEDED, 1}, {DT_RPATH, 2 + needed.size()}, {DT_STRTAB, table}, {DT_STRSZ, strings.size()}, {DT_SYMTAB, offsetof(Image, none)}, {DT_SYMENT, sizeof(Elf64_Sym)}, {DT_HASH, offsetof(Image, hash)}};
  for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
    image.dynamic[i].d_tag = entries[i].tag;
    image.dynamic[i].d_un.d_val = entries[i].value;
  }
  // One bucket, one chain, both of the symbol that is none.
  image.hash[0] = image.hash[1] = 1;
  return std::string(reinterpret_cast<const char*>(&image), sizeof image) + strings;
}

}  // namespace

bool loadAmongNeighbours(const std::string& path) {
  char* real = path.find('/') == std::string::npos ? nullptr : realpath(path.substr(0, path.rfind('/') + 1).c_str(), nullptr);
  if (real == nullptr) return false;
  const std::string folder = real, name = path.substr(path.rfind('/') + 1);
  std::free(real);
  // The loader gives these a meaning of their own.
  if (folder.find_first_of(":;$") != std::string::npos || name.find('$') != std::string::npos) return false;
  const std::string image = imageOf(name, folder);
  const int file = memfd_create("partita-tensorrt", MFD_CLOEXEC);
  if (file < 0) return false;
  void* handle = nullptr;
  if (write(file, image.data(), image.size()) == static_cast<ssize_t>(image.size()))
    handle = dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  close(file);
  return handle != nullptr;
}

}  // namespace tensorrt
