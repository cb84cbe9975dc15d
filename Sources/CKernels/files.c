#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include "CKernels.h"
#include <unistd.h>
#if defined(__linux__)
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#endif

int64_t ck_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t count) {
#if defined(__linux__)
    off_t a = from_offset, b = to_offset;
    return copy_file_range(from, &a, to, &b, count, 0);
#else
    (void)from; (void)from_offset; (void)to; (void)to_offset; (void)count;
    return -1;
#endif
}

int ck_clone_file(int from, int to) {
#if defined(__linux__)
    return ioctl(to, FICLONE, from);
#else
    (void)from; (void)to;
    return -1;
#endif
}

uint32_t ck_file_system_type(const char *path) {
#if defined(__linux__)
    struct statfs status;
    return statfs(path, &status) == 0 ? (uint32_t)status.f_type : 0;
#else
    (void)path;
    return 0;
#endif
}

int ck_punch_hole(int file, int64_t offset, int64_t count) {
#if defined(FALLOC_FL_PUNCH_HOLE)
    return fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)count);
#else
    (void)file; (void)offset; (void)count;
    errno = ENOTSUP;
    return -1;
#endif
}

int ck_is_hole(int file, int64_t offset, int64_t count) {
#if defined(SEEK_DATA)
    off_t data = lseek(file, (off_t)offset, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (int64_t)data >= offset + count;
#else
    (void)file; (void)offset; (void)count;
    return 0;
#endif
}
