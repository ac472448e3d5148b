// The queue's errors carry the details of proto/errors.h; the services pass them on without knowing
// them.
#pragma once

#include "proto/errors.h"
