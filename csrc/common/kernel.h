// How an operator `foo` finds its kernels. To add one, write four files and edit no list:
//
//   csrc/ops/foo.h               the argument struct (raw pointers and sizes, no torch), and
//                                inline Kernel<void(const Foo&)> foo_kernel{"foo"};
//   csrc/ops/foo.cpp             the bridge: check the tensors, fill the struct, call foo_kernel.on(tensor)(args),
//                                and MFVIS_OPERATOR(foo, "(Tensor x) -> Tensor") at its end
//   csrc/ops/cpu/foo_kernel.cpp  the computation, all of it in an anonymous namespace, and
//                                MFVIS_CPU_KERNEL(foo_kernel, foo) at its end
//   csrc/ops/cuda/foo_kernel.cu  the same for CUDA, MFVIS_CUDA_KERNEL(foo_kernel, foo) at its end (common/cuda.h)
//
// The CPU kernels are compiled once per instruction set (CMakeLists.txt). That is safe only while no function with
// external linkage is compiled with AVX flags: the linker keeps one copy of an inline function, and an old machine must
// not meet the AVX-512 one. Hence the anonymous namespaces, `static` in the headers that kernels include, and no torch
// header, no std container there.
#pragma once

namespace mfvis {

// `emulated` are the CUDA kernels on csrc/emulator: only in builds for tests, only by MFVIS_CPU_LEVEL=emulated.
enum class CpuLevel { baseline, avx2, avx512, emulated };
constexpr int cpu_level_count = 4;

// The level in use: the best that was built and that this machine has, or the one of MFVIS_CPU_LEVEL.
CpuLevel cpu_level();
const char* name_of(CpuLevel level);
bool level_was_built(CpuLevel level);

[[noreturn]] void fail_without_cuda_kernel(const char* op);

// Makes a CUDA device the current one, for launches and their stream, as long as it lives; device -1 is the CPU.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_;
};

// The implementations of one kernel, filled in by the files that hold them before main() or dlopen() returns.
template <typename Function>
struct Kernel;

template <typename... Arguments>
struct Kernel<void(Arguments...)> {
  using Function = void(Arguments...);

  const char* op;
  Function* cpu[cpu_level_count] = {};
  Function* cuda = nullptr;

  struct Call {
    Function* function;
    int device;

    void operator()(Arguments... args) const {
      const OnDevice current(device);
      function(args...);
    }
  };

  // The implementation for a tensor's device, to be called with the kernel's arguments.
  template <typename Tensor>
  Call on(const Tensor& tensor) const {
    Function* const function = tensor.is_cpu() ? cpu[static_cast<int>(cpu_level())] : cuda;
    if (function == nullptr) fail_without_cuda_kernel(op);
    return {function, tensor.is_cpu() ? -1 : static_cast<int>(tensor.get_device_index())};
  }
};

// Whether the CUDA kernels will run, be it on the emulator: for what only they need, such as scratch memory.
template <typename Tensor>
bool runs_cuda_kernels(const Tensor& tensor) {
  return !tensor.is_cpu() || cpu_level() == CpuLevel::emulated;
}

namespace {
struct Registration {
  template <typename Function>
  Registration(Function*& slot, Function* function) {
    slot = function;
  }
};
}  // namespace

}  // namespace mfvis

#define MFVIS_CPU_KERNEL(kernel, function) \
  static const ::mfvis::Registration kernel##_registration(kernel.cpu[MFVIS_CPU_LEVEL], &function);
#ifdef MFVIS_EMULATED
#define MFVIS_CUDA_KERNEL(kernel, function) MFVIS_CPU_KERNEL(kernel, function)
#else
#define MFVIS_CUDA_KERNEL(kernel, function) \
  static const ::mfvis::Registration kernel##_registration(kernel.cuda, &function);
#endif
