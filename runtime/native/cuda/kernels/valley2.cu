// All kernels in one file: most of the time that a target takes to compile goes into CUDA's own headers. None
// of them has an unnamed namespace: nvcc would name it after the path of this file, and no two builds would be alike.
#include "attention.cuh"
#include "attention_tiles.cuh"
#include "choose.cuh"
#include "linear_few.cuh"
#include "linear_many.cuh"
#include "linear_plain.cuh"
#include "narrow.cuh"
#include "probes.cuh"
#include "rows.cuh"
