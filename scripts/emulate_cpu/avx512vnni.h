#include "avx512.h"
#define __AVX512VNNI__ 1
