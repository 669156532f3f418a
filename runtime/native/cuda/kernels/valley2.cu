// All kernels in one file: most of the time that a target takes to compile goes into CUDA's own headers. None
// of them has an unnamed namespace: nvcc would name it after the path of this file, and no two builds would be alike.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/attention_tiles.cuh"
#include "cuda/kernels/choose.cuh"
#include "cuda/kernels/linear_few.cuh"
#include "cuda/kernels/linear_many.cuh"
#include "cuda/kernels/linear_plain.cuh"
#include "cuda/kernels/narrow.cuh"
#include "cuda/kernels/probes.cuh"
#include "cuda/kernels/rows.cuh"
