// How an operator `foo` finds its kernels. To add one, write three files and edit no list:
//
//   csrc/ops/foo.h               the argument struct (raw pointers and sizes, no torch), and
//                                inline Kernel<void(const Foo&)> foo_kernel{"foo"};
//   csrc/ops/foo.cpp             the bridge: check the tensors, fill the struct, call foo_kernel.on(tensor)(args),
//                                and MFVIS_OPERATOR(foo, "(Tensor x) -> Tensor") at its end
//   csrc/ops/cpu/foo_kernel.cpp  the computation, all of it in an anonymous namespace, and
//                                MFVIS_CPU_KERNEL(foo_kernel, foo) at its end
//   csrc/ops/cuda/foo_kernel.cu  later, the same with MFVIS_CUDA_KERNEL
//
// The CPU kernels are compiled once per instruction set (CMakeLists.txt). That is safe only while no function with
// external linkage is compiled with AVX flags: the linker keeps one copy of an inline function, and an old machine must
// not meet the AVX-512 one. Hence the anonymous namespaces, `static` in the headers that kernels include, and no torch
// header, no std container there.
#pragma once

namespace mfvis {

enum class CpuLevel { baseline, avx2, avx512 };
constexpr int cpu_level_count = 3;

// The level in use: the best that was built and that this machine has, or the lower one of MFVIS_CPU_LEVEL.
CpuLevel cpu_level();
const char* name_of(CpuLevel level);

[[noreturn]] void fail_without_cuda_kernel(const char* op);

// The implementations of one kernel, filled in by the files that hold them before main() or dlopen() returns.
template <typename Function>
struct Kernel {
  const char* op;
  Function* cpu[cpu_level_count] = {};
  Function* cuda = nullptr;

  template <typename Tensor>
  Function& on(const Tensor& tensor) const {
    if (tensor.is_cpu()) return *cpu[static_cast<int>(cpu_level())];
    if (cuda == nullptr) fail_without_cuda_kernel(op);
    return *cuda;
  }
};

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
#define MFVIS_CUDA_KERNEL(kernel, function) \
  static const ::mfvis::Registration kernel##_registration(kernel.cuda, &function);
