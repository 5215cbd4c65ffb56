#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernel.h"

namespace mfvis {
namespace {

#ifdef MFVIS_EMULATED
constexpr bool emulated = true;
#else
constexpr bool emulated = false;
#endif

bool machine_has(CpuCapability capability) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("fma"), avx2 = fma && __builtin_cpu_supports("avx2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool has[cpu_capability_count] = {true, avx2, avx512, fma};  // the emulator: csrc/emulator/flags.txt
  return has[static_cast<int>(capability)];
#else
  return capability == CpuCapability::baseline || capability == CpuCapability::emulated;
#endif
}

CpuCapability best_of_machine() {
  CpuCapability best = CpuCapability::baseline;
  for (const CpuCapability capability : {CpuCapability::avx2, CpuCapability::avx512}) {
    if (machine_has(capability)) best = capability;
  }
  return best;
}

CpuCapability choose() {
  const char* const variable = std::getenv("MFVIS_CPU_CAPABILITY");
  if (variable == nullptr || *variable == '\0') return best_of_machine();
  const std::string name = variable;
  const auto fail = [&](const std::string& reason) {
    throw std::invalid_argument("MFVIS_CPU_CAPABILITY is " + name + reason);
  };
  for (int i = 0; i < cpu_capability_count; ++i) {
    const CpuCapability capability = static_cast<CpuCapability>(i);
    if (name != name_of(capability)) continue;
    if (!capability_was_built(capability) && capability == CpuCapability::emulated) {
      fail(", but the CUDA emulator was not built; rebuild with MFVIS_EMULATE=1");
    }
    if (!machine_has(capability)) {
      fail(std::string(", but this machine has no more than ") + name_of(best_of_machine()) +
           "; unset it or choose a lower one");
    }
    return capability;
  }
  fail("; expected baseline, avx2 or avx512");
  return CpuCapability::baseline;
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
