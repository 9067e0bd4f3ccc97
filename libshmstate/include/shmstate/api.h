/* What the shared libraries export, and the private parts of an exported class, which they do not. */
#ifndef SHMSTATE_API_H
#define SHMSTATE_API_H

#define SHMSTATE_API __attribute__((visibility("default")))
#define SHMSTATE_LOCAL __attribute__((visibility("hidden")))

#endif
