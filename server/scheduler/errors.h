// The queue's errors carry the details of proto/errors.h; the services pass them on unread.
#pragma once

#include "proto/errors.h"
