#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernel.h"

namespace mfvis {
namespace {

bool machine_has(CpuCapability capability) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return capability == CpuCapability::baseline || (capability == CpuCapability::avx2 && avx2) || (capability == CpuCapability::avx512 && avx512);
#else
  return capability == CpuCapability::baseline;
#endif
}

#ifdef MFVIS_EMULATED
constexpr bool emulated = true;
#else
constexpr bool emulated = false;
#endif

CpuCapability choose() {
  CpuCapability best = CpuCapability::baseline;
  for (const CpuCapability capability : {CpuCapability::avx2, CpuCapability::avx512}) {
    if (machine_has(capability)) best = capability;
  }
  const char* setting = std::getenv("MFVIS_CPU_CAPABILITY");
  if (setting == nullptr || *setting == '\0') return best;
  for (int i = 0; i < cpu_capability_count; ++i) {
    const CpuCapability capability = static_cast<CpuCapability>(i);
    if (std::string(setting) != name_of(capability)) continue;
    if (capability <= best || (capability == CpuCapability::emulated && capability_was_built(capability))) return capability;
    if (capability == CpuCapability::emulated) {
      throw std::invalid_argument(
          "MFVIS_CPU_CAPABILITY is emulated, but the CUDA emulator was not built; rebuild with "
          "MFVIS_EMULATE=1");
    }
    throw std::invalid_argument(std::string("MFVIS_CPU_CAPABILITY is ") + setting + ", but this machine has no more than " +
                                name_of(best) + "; unset it or choose a lower capability");
  }
  throw std::invalid_argument(std::string("MFVIS_CPU_CAPABILITY is ") + setting + "; expected baseline, avx2 or avx512");
}

}  // namespace

CpuCapability cpu_capability() {
  static const CpuCapability capability = choose();
  return capability;
}

bool capability_was_built(CpuCapability capability) {
  return capability == CpuCapability::emulated ? emulated : static_cast<int>(capability) < MFVIS_CPU_CAPABILITIES;
}

const char* name_of(CpuCapability capability) {
  constexpr const char* names[cpu_capability_count] = {"baseline", "avx2", "avx512", "emulated"};
  return names[static_cast<int>(capability)];
}

}  // namespace mfvis
