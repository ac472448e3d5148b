// Marks small functions that the CPU and the GPU variants share, so that they cannot differ.
#pragma once

#ifdef __CUDACC__
#define QD_HOST_DEVICE __host__ __device__
#else
#define QD_HOST_DEVICE
#endif
