// How an operator `foo` finds its kernels. Adding one takes four files and no list:
//
//   csrc/ops/foo.h               the argument struct (raw pointers and sizes, no torch), and
//                                inline Kernel<void(const Foo&)> foo_kernel{"foo"};
//   csrc/ops/foo.cpp             the bridge: check the tensors, fill the struct, call foo_kernel.on(tensor)(args); at
//   its
//                                end MFVIS_OPERATOR(foo, "(Tensor x) -> Tensor")
//   csrc/ops/cpu/foo_kernel.cpp  the computation, all of it in an anonymous namespace; at its end
//                                MFVIS_CPU_KERNEL(foo_kernel, foo)
//   csrc/ops/cuda/foo_kernel.cu  the same for CUDA, at its end MFVIS_CUDA_KERNEL(foo_kernel, foo) (common/cuda.h)
//
// The CPU kernels are compiled once per instruction set (CMakeLists.txt). This is only safe while no function with
// external linkage is compiled with AVX flags: the linker keeps one copy of an inline function, and an old machine must
// not run the AVX-512 one. Hence the anonymous namespaces, and `static` in the headers that kernels include, which use
// no torch header and no std container.
#pragma once

namespace mfvis {

// `emulated` runs the CUDA kernels on csrc/emulator: only in test builds, and only with MFVIS_CPU_CAPABILITY=emulated.
enum class CpuCapability { baseline, avx2, avx512, emulated };
constexpr int cpu_capability_count = 4;

// The capability in use: the best one that was built and that this machine supports, or MFVIS_CPU_CAPABILITY.
CpuCapability cpu_capability();
const char* name_of(CpuCapability capability);
bool capability_was_built(CpuCapability capability);

[[noreturn]] void fail_without_cuda_kernel(const char* op);

// Makes a CUDA device the current one for its lifetime. Device -1, the CPU, changes nothing.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_;
};

// The implementations of one kernel, registered by the files that define them when the library is loaded.
template <typename Function>
struct Kernel;

template <typename... Arguments>
struct Kernel<void(Arguments...)> {
  using Function = void(Arguments...);

  const char* op;
  Function* cpu[cpu_capability_count] = {};
  Function* cuda = nullptr;

  struct Call {
    Function* function;
    int device;

    void operator()(Arguments... args) const {
      const DeviceGuard current(device);
      function(args...);
    }
  };

  // The implementation for a tensor's device, to be called with the kernel's arguments.
  template <typename Tensor>
  Call on(const Tensor& tensor) const {
    Function* const function = tensor.is_cpu() ? cpu[static_cast<int>(cpu_capability())] : cuda;
    if (function == nullptr) fail_without_cuda_kernel(op);
    return {function, tensor.is_cpu() ? -1 : static_cast<int>(tensor.get_device_index())};
  }
};

// Whether the CUDA kernels will run, on a GPU or on the emulator. They need scratch memory that the CPU kernels do not.
template <typename Tensor>
bool runs_cuda_kernels(const Tensor& tensor) {
  return !tensor.is_cpu() || cpu_capability() == CpuCapability::emulated;
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
  static const ::mfvis::Registration kernel##_registration(kernel.cpu[MFVIS_CPU_CAPABILITY], &function);
#ifdef MFVIS_EMULATED
#define MFVIS_CUDA_KERNEL(kernel, function) MFVIS_CPU_KERNEL(kernel, function)
#else
#define MFVIS_CUDA_KERNEL(kernel, function) \
  static const ::mfvis::Registration kernel##_registration(kernel.cuda, &function);
#endif
