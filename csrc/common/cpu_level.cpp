#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernel.h"

namespace mfvis {
namespace {

bool machine_has(CpuLevel level) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return level == CpuLevel::baseline || (level == CpuLevel::avx2 && avx2) || (level == CpuLevel::avx512 && avx512);
#else
  return level == CpuLevel::baseline;
#endif
}

#ifdef MFVIS_EMULATED
constexpr bool emulated = true;
#else
constexpr bool emulated = false;
#endif

CpuLevel choose() {
  CpuLevel best = CpuLevel::baseline;
  for (const CpuLevel level : {CpuLevel::avx2, CpuLevel::avx512}) {
    if (machine_has(level)) best = level;
  }
  const char* wish = std::getenv("MFVIS_CPU_LEVEL");
  if (wish == nullptr || *wish == '\0') return best;
  for (int i = 0; i < cpu_level_count; ++i) {
    const CpuLevel level = static_cast<CpuLevel>(i);
    if (std::string(wish) != name_of(level)) continue;
    if (level <= best || (level == CpuLevel::emulated && level_was_built(level))) return level;
    if (level == CpuLevel::emulated) {
      throw std::invalid_argument(
          "MFVIS_CPU_LEVEL is emulated, but the CUDA emulator was not built; rebuild with "
          "MFVIS_EMULATE=1");
    }
    throw std::invalid_argument(std::string("MFVIS_CPU_LEVEL is ") + wish + ", but this machine has no more than " +
                                name_of(best) + "; unset it or choose a lower level");
  }
  throw std::invalid_argument(std::string("MFVIS_CPU_LEVEL is ") + wish + "; expected baseline, avx2 or avx512");
}

}  // namespace

CpuLevel cpu_level() {
  static const CpuLevel level = choose();
  return level;
}

bool level_was_built(CpuLevel level) {
  return level == CpuLevel::emulated ? emulated : static_cast<int>(level) < MFVIS_CPU_LEVELS;
}

const char* name_of(CpuLevel level) {
  constexpr const char* names[cpu_level_count] = {"baseline", "avx2", "avx512", "emulated"};
  return names[static_cast<int>(level)];
}

}  // namespace mfvis
