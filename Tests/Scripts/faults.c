// A disk that fails on demand, between a program and the C library (LD_PRELOAD, Linux, glibc 2.33 or newer). fault_campaign.py drives it.
//
// Calls on files below two directories, the destination and the source, are counted by kind; one of them, or all from one on, can be answered
// with an error, be cut short, or end the process. What changes the destination can be written to a log, from which the script builds what
// a disk may hold after the power failed. The environment says what to do:
//
//   FAULT_DESTINATION, FAULT_SOURCE   the directories, as the program is told them
//   FAULT_STATE                       a file that is mapped and holds the counts (struct state); children of the program count in it too
//   FAULT_SIDE, FAULT_CALL, FAULT_AT  which call: d or s, the kind's name, from 1 on
//   FAULT_ANSWER                      an error's number, or one of the answers below
//   FAULT_STICKY                      the calls after it get the same answer
//   FAULT_LOG                         where changes are recorded
//   FAULT_CLONES                      FICLONE copies, so that what follows a clone is exercised on file systems that have none
//   FAULT_NO_LOCKS                    the destination's file system has no flock
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

enum side { ELSEWHERE = -1, DESTINATION, SOURCE };

// Any call and any change are counted besides, for kills.
enum kind {
    ANY, CHANGE, OPEN, CREATE, CLOSE, READ, WRITE, SYNC, SYNC_DIRECTORY, TRUNCATE, COPY, CLONE, STAT, STATVFS, LOCK, LIST, READDIR, MKDIR, RMDIR,
    RENAME, UNLINK, STDIO, PUNCH, KINDS
};
static const char *const kind_names[KINDS] = {
    "any", "change", "open", "create", "close", "read", "write", "fsync", "fsyncdir", "ftruncate", "copy", "clone", "stat", "statvfs", "flock",
    "opendir", "readdir", "mkdir", "rmdir", "rename", "unlink", "stdio", "punch"};

// Answers that are no errors: half of the bytes, none of them, a full disk, and no answer at all.
enum { GO_ON = 0, SHORT = -1, NOTHING = -2, FULL = -3, KILL = -4 };

struct state {
    _Atomic int32_t process;  // the first one, which a kill means
    _Atomic uint32_t fired;
    char what[248];           // the path of the first call that was answered
    struct { char name[16]; _Atomic uint32_t count[2]; } kinds[KINDS];
};

static struct state *state;
static const char *roots[2];
static enum side fault_side;
static enum kind fault_kind = KINDS;
static uint32_t fault_at;
static int fault_answer, is_sticky, clones, has_no_locks, log_file = -1;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

// Of open files: side + 1 of each descriptor, and the number that the log knows it by.
enum { DESCRIPTORS = 4096 };
static _Atomic int8_t sides[DESCRIPTORS];
static uint32_t handles[DESCRIPTORS], last_handle;

#define REAL(name) \
    ({ \
        static __typeof__(&name) real; \
        if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
        real; \
    })

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULT_STATE"), *text;
    if (!path) return;
    int file = REAL(open)(path, O_RDWR | O_CLOEXEC);
    void *memory = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) abort();
    REAL(close)(file);
    struct state *mapped = memory;
    int32_t none = 0;
    atomic_compare_exchange_strong(&mapped->process, &none, getpid());
    for (int i = 0; i < KINDS; i++) strcpy(mapped->kinds[i].name, kind_names[i]);
    roots[DESTINATION] = getenv("FAULT_DESTINATION");
    roots[SOURCE] = getenv("FAULT_SOURCE");
    clones = getenv("FAULT_CLONES") != NULL;
    has_no_locks = getenv("FAULT_NO_LOCKS") != NULL;
    if ((text = getenv("FAULT_CALL"))) {
        for (int i = 0; i < KINDS; i++)
            if (!strcmp(text, kind_names[i])) fault_kind = i;
        fault_side = getenv("FAULT_SIDE")[0] == 's' ? SOURCE : DESTINATION;
        fault_at = (uint32_t)atoi(getenv("FAULT_AT"));
        fault_answer = atoi(getenv("FAULT_ANSWER"));
        is_sticky = getenv("FAULT_STICKY") != NULL;
    }
    if ((text = getenv("FAULT_LOG"))) log_file = REAL(open)(text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    state = mapped;
}

// MARK: Which call, and what becomes of it

static enum side side_of_path(const char *path) {
    for (int i = 0; state && path && i < 2; i++) {
        size_t size = roots[i] ? strlen(roots[i]) : 0;
        if (size && !strncmp(path, roots[i], size) && (path[size] == '/' || !path[size])) return i;
    }
    return ELSEWHERE;
}

static enum side side_of(int descriptor) { return descriptor >= 0 && descriptor < DESCRIPTORS ? sides[descriptor] - 1 : ELSEWHERE; }

/// Kills the program, and the child of it that may have made the call.
static void end(void) {
    kill(state->process, SIGKILL);
    raise(SIGKILL);
}

static int matches(enum kind kind, enum side side) {
    uint32_t number = ++state->kinds[kind].count[side];
    return kind == fault_kind && side == fault_side && (number == fault_at || (is_sticky && number > fault_at));
}

/// Counts a call and says what becomes of it. Of a write that the process is killed in half is written, by the caller.
static int fate(enum kind kind, enum side side, const char *path, int descriptor) {
    static const enum kind changes[] = {CREATE, WRITE, TRUNCATE, PUNCH, COPY, CLONE, MKDIR, RMDIR, RENAME, UNLINK, SYNC, SYNC_DIRECTORY};
    if (side == ELSEWHERE) return GO_ON;
    int hit = matches(kind, side) | matches(ANY, side);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        if (kind == changes[i]) hit |= matches(CHANGE, side);
    if (!hit) return GO_ON;
    if (state->fired++ == 0) {
        char link[32];
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        ssize_t size = path ? snprintf(state->what, sizeof state->what, "%s", path) : readlink(link, state->what, sizeof state->what - 1);
        (void)size;
    }
    if (fault_answer == KILL && kind != WRITE) end();
    return fault_answer;
}

#define FAIL_IF(answer, result) \
    do { \
        int reason = (answer); \
        if (reason > 0) { \
            errno = reason; \
            return result; \
        } \
    } while (0)

// MARK: The log

/// One record: this, then the path, then the bytes (of a rename the new path).
struct record { char kind, spare[3]; uint32_t handle; uint64_t number; uint32_t path_size, byte_count; };

static void record(char kind, int descriptor, uint64_t number, const char *path, const void *bytes, size_t count) {
    struct record head = {kind, {0}, descriptor < 0 ? 0 : handles[descriptor], number, path ? (uint32_t)strlen(path) : 0, (uint32_t)count};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)path, head.path_size}, {(void *)bytes, count}};
    if (writev(log_file, parts, 3) != (ssize_t)(sizeof head + head.path_size + count)) abort();
}

// The order of the log is that of the changes.
static int begin(enum side side) {
    if (side != DESTINATION || log_file < 0) return 0;
    pthread_mutex_lock(&log_lock);
    return 1;
}

static void finish(int is_logged) {
    int reason = errno;
    if (is_logged) pthread_mutex_unlock(&log_lock);
    errno = reason;
}

// MARK: Opening and closing

static void note_open(int descriptor, enum side side, const char *path, int flags, int is_logged) {
    if (descriptor < 0 || descriptor >= DESCRIPTORS || side == ELSEWHERE) return;
    sides[descriptor] = (int8_t)(side + 1);
    handles[descriptor] = ++last_handle;
    if (is_logged) record('O', descriptor, (flags & O_CREAT ? 1 : 0) | (flags & O_TRUNC ? 2 : 0), path, NULL, 0);
}

static int open_file(int directory, const char *path, int flags, mode_t mode) {
    enum side side = side_of_path(path);
    FAIL_IF(fate(flags & O_CREAT ? CREATE : OPEN, side, path, -1), -1);
    int is_logged = begin(side), descriptor = REAL(openat)(directory, path, flags, mode);
    note_open(descriptor, side, path, flags, is_logged);
    finish(is_logged);
    return descriptor;
}

#define MODE_AFTER(last) \
    ({ \
        va_list rest; \
        va_start(rest, last); \
        mode_t mode = last & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        mode; \
    })

int open(const char *path, int flags, ...) { return open_file(AT_FDCWD, path, flags, MODE_AFTER(flags)); }
int open64(const char *path, int flags, ...) { return open_file(AT_FDCWD, path, flags, MODE_AFTER(flags)); }
int openat(int directory, const char *path, int flags, ...) { return open_file(directory, path, flags, MODE_AFTER(flags)); }
int openat64(int directory, const char *path, int flags, ...) { return open_file(directory, path, flags, MODE_AFTER(flags)); }
int creat(const char *path, mode_t mode) { return open_file(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }

int close(int descriptor) {
    enum side side = side_of(descriptor);
    int answer = fate(CLOSE, side, NULL, descriptor);
    if (side != ELSEWHERE) sides[descriptor] = 0;
    int result = REAL(close)(descriptor);
    // Linux closes the file whatever it answers.
    FAIL_IF(answer, -1);
    return result;
}

// MARK: Bytes

static size_t shortened(int answer, size_t count) {
    return answer == NOTHING ? 0 : answer == KILL || (answer == SHORT && count > 1) ? count / 2 : count;
}

ssize_t pread(int descriptor, void *bytes, size_t count, off_t offset) {
    int answer = fate(READ, side_of(descriptor), NULL, descriptor);
    FAIL_IF(answer, -1);
    return REAL(pread)(descriptor, bytes, shortened(answer, count), offset);
}
ssize_t pread64(int descriptor, void *bytes, size_t count, off64_t offset) { return pread(descriptor, bytes, count, offset); }

ssize_t read(int descriptor, void *bytes, size_t count) {
    int answer = fate(READ, side_of(descriptor), NULL, descriptor);
    FAIL_IF(answer, -1);
    return REAL(read)(descriptor, bytes, shortened(answer, count));
}

ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t offset) {
    enum side side = side_of(descriptor);
    int answer = fate(WRITE, side, NULL, descriptor);
    FAIL_IF(answer, -1);
    int is_logged = begin(side);
    ssize_t done = REAL(pwrite)(descriptor, bytes, shortened(answer, count), offset);
    if (is_logged && done > 0) record('W', descriptor, (uint64_t)offset, NULL, bytes, (size_t)done);
    if (answer == KILL) end();
    finish(is_logged);
    return done;
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off64_t offset) { return pwrite(descriptor, bytes, count, offset); }

ssize_t write(int descriptor, const void *bytes, size_t count) {
    enum side side = side_of(descriptor);
    int answer = fate(WRITE, side, NULL, descriptor);
    FAIL_IF(answer, -1);
    int is_logged = begin(side);
    ssize_t done = REAL(write)(descriptor, bytes, shortened(answer, count));
    if (is_logged && done > 0) record('W', descriptor, (uint64_t)(lseek(descriptor, 0, SEEK_CUR) - done), NULL, bytes, (size_t)done);
    if (answer == KILL) end();
    finish(is_logged);
    return done;
}

/// Writes what lies in another file to the log.
static void record_copy(int from, off_t from_offset, int to, off_t to_offset, size_t count) {
    char *bytes = malloc(count + 1);
    if (!bytes || REAL(pread)(from, bytes, count, from_offset) != (ssize_t)count) abort();
    record('W', to, (uint64_t)to_offset, NULL, bytes, count);
    free(bytes);
}

ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t count, unsigned flags) {
    enum side side = side_of(to);
    int answer = fate(COPY, side, NULL, to);
    FAIL_IF(answer, -1);
    if (answer == NOTHING) return 0;
    int is_logged = begin(side);
    off64_t start = from_offset ? *from_offset : 0, target = to_offset ? *to_offset : 0;
    ssize_t done = REAL(copy_file_range)(from, from_offset, to, to_offset, shortened(answer, count), flags);
    if (is_logged && done > 0) record_copy(from, start, to, target, (size_t)done);
    finish(is_logged);
    return done;
}

static int clone_by_copying(int from, int to, int is_logged) {
    struct stat status;
    char piece[1 << 16];
    ssize_t count;
    if (REAL(fstat)(from, &status) || REAL(ftruncate)(to, status.st_size)) return -1;
    for (off_t done = 0; (count = REAL(pread)(from, piece, sizeof piece, done)) > 0; done += count)
        if (REAL(pwrite)(to, piece, (size_t)count, done) != count) return -1;
    if (is_logged) record_copy(from, 0, to, 0, (size_t)status.st_size);
    return 0;
}

int ioctl(int descriptor, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    unsigned long value = va_arg(rest, unsigned long);
    va_end(rest);
    if (request != FICLONE) return REAL(ioctl)(descriptor, request, value);
    enum side side = side_of(descriptor);
    FAIL_IF(fate(CLONE, side, NULL, descriptor), -1);
    if (!clones || side == ELSEWHERE) return REAL(ioctl)(descriptor, request, value);
    int is_logged = begin(side), result = clone_by_copying((int)value, descriptor, is_logged);
    finish(is_logged);
    return result;
}

int ftruncate(int descriptor, off_t size) {
    enum side side = side_of(descriptor);
    FAIL_IF(fate(TRUNCATE, side, NULL, descriptor), -1);
    int is_logged = begin(side), result = REAL(ftruncate)(descriptor, size);
    if (is_logged && result == 0) record('T', descriptor, (uint64_t)size, NULL, NULL, 0);
    finish(is_logged);
    return result;
}
// What is freed reads as zeros, so zeros are what the log has.
int fallocate(int descriptor, int mode, off_t start, off_t count) {
    enum side side = side_of(descriptor);
    FAIL_IF(fate(PUNCH, side, NULL, descriptor), -1);
    int is_logged = begin(side), result = REAL(fallocate)(descriptor, mode, start, count);
    if (is_logged && result == 0) {
        if (mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)) abort();
        void *zeros = calloc(1, (size_t)count);
        record('W', descriptor, (uint64_t)start, NULL, zeros, (size_t)count);
        free(zeros);
    }
    finish(is_logged);
    return result;
}
int fallocate64(int descriptor, int mode, off64_t start, off64_t count) { return fallocate(descriptor, mode, start, count); }
int ftruncate64(int descriptor, off64_t size) { return ftruncate(descriptor, size); }

static int synchronize(int descriptor, int data_only) {
    enum side side = side_of(descriptor);
    struct stat status = {0};
    if (side != ELSEWHERE) REAL(fstat)(descriptor, &status);
    int answer = fate(S_ISDIR(status.st_mode) ? SYNC_DIRECTORY : SYNC, side, NULL, descriptor), is_logged = begin(side);
    int result = answer > 0 ? -1 : data_only ? REAL(fdatasync)(descriptor) : REAL(fsync)(descriptor);
    if (is_logged) record(result == 0 ? 'F' : 'E', descriptor, 0, NULL, NULL, 0);
    finish(is_logged);
    FAIL_IF(answer, -1);
    return result;
}
int fsync(int descriptor) { return synchronize(descriptor, 0); }
int fdatasync(int descriptor) { return synchronize(descriptor, 1); }

int flock(int descriptor, int operation) {
    // That a lock is given back is never refused.
    enum side side = operation & LOCK_UN ? ELSEWHERE : side_of(descriptor);
    FAIL_IF(fate(LOCK, side, NULL, descriptor), -1);
    FAIL_IF(side == DESTINATION && has_no_locks ? ENOLCK : 0, -1);
    return REAL(flock)(descriptor, operation);
}

// MARK: Streams

FILE *fopen(const char *path, const char *mode) {
    enum side side = side_of_path(path);
    FAIL_IF(fate(STDIO, side, path, -1), NULL);
    FILE *file = REAL(fopen)(path, mode);
    // Its writes are not seen; the log would not be the whole story.
    if (file && side == DESTINATION && log_file >= 0 && *mode != 'r') abort();
    if (file) note_open(fileno(file), side, path, 0, 0);
    return file;
}
FILE *fopen64(const char *path, const char *mode) { return fopen(path, mode); }

size_t fread(void *bytes, size_t size, size_t count, FILE *file) {
    FAIL_IF(fate(STDIO, side_of(fileno(file)), NULL, fileno(file)), 0);
    return REAL(fread)(bytes, size, count, file);
}

size_t fwrite(const void *bytes, size_t size, size_t count, FILE *file) {
    FAIL_IF(fate(STDIO, side_of(fileno(file)), NULL, fileno(file)), 0);
    return REAL(fwrite)(bytes, size, count, file);
}

int fclose(FILE *file) {
    int descriptor = fileno(file), answer = fate(STDIO, side_of(descriptor), NULL, descriptor);
    if (side_of(descriptor) != ELSEWHERE) sides[descriptor] = 0;
    int result = REAL(fclose)(file);
    FAIL_IF(answer, EOF);
    return result;
}

// MARK: Names and attributes

#define PATH_CALL(result_type, failure, kind, name, parameters, path, ...) \
    result_type name parameters { \
        FAIL_IF(fate(kind, side_of_path(path), path, -1), failure); \
        return REAL(name)(__VA_ARGS__); \
    }

PATH_CALL(int, -1, STAT, stat, (const char *path, struct stat *status), path, path, status)
PATH_CALL(int, -1, STAT, stat64, (const char *path, struct stat64 *status), path, path, status)
PATH_CALL(int, -1, STAT, lstat, (const char *path, struct stat *status), path, path, status)
PATH_CALL(int, -1, STAT, lstat64, (const char *path, struct stat64 *status), path, path, status)
PATH_CALL(int, -1, STAT, fstatat, (int directory, const char *path, struct stat *status, int flags), path, directory, path, status, flags)
PATH_CALL(int, -1, STAT, fstatat64, (int directory, const char *path, struct stat64 *status, int flags), path, directory, path, status, flags)
PATH_CALL(int, -1, STAT, statx, (int directory, const char *path, int flags, unsigned mask, struct statx *status), path, directory, path, flags, mask,
          status)
PATH_CALL(int, -1, STAT, access, (const char *path, int mode), path, path, mode)

int fstat(int descriptor, struct stat *status) {
    FAIL_IF(fate(STAT, side_of(descriptor), NULL, descriptor), -1);
    return REAL(fstat)(descriptor, status);
}
int fstat64(int descriptor, struct stat64 *status) { return fstat(descriptor, (struct stat *)status); }

int statvfs(const char *path, struct statvfs *status) {
    int answer = fate(STATVFS, side_of_path(path), path, -1);
    FAIL_IF(answer, -1);
    int result = REAL(statvfs)(path, status);
    if (answer == FULL) status->f_bavail = status->f_bfree = 0;
    return result;
}
int statvfs64(const char *path, struct statvfs64 *status) { return statvfs(path, (struct statvfs *)status); }

DIR *opendir(const char *path) {
    enum side side = side_of_path(path);
    FAIL_IF(fate(LIST, side, path, -1), NULL);
    DIR *stream = REAL(opendir)(path);
    if (stream) note_open(dirfd(stream), side, path, 0, 0);
    return stream;
}

struct dirent *readdir(DIR *stream) {
    FAIL_IF(fate(READDIR, side_of(dirfd(stream)), NULL, dirfd(stream)), NULL);
    return REAL(readdir)(stream);
}
struct dirent64 *readdir64(DIR *stream) { return (struct dirent64 *)readdir(stream); }

int closedir(DIR *stream) {
    int descriptor = dirfd(stream);
    if (side_of(descriptor) != ELSEWHERE) sides[descriptor] = 0;
    return REAL(closedir)(stream);
}

#define NAME_CALL(kind, letter, name, parameters, path, second, ...) \
    int name parameters { \
        enum side side = side_of_path(path); \
        FAIL_IF(fate(kind, side, path, -1), -1); \
        int is_logged = begin(side), result = REAL(name)(__VA_ARGS__); \
        const char *other = second; \
        if (is_logged && result == 0) record(letter, -1, 0, path, other, other ? strlen(other) : 0); \
        finish(is_logged); \
        return result; \
    }

NAME_CALL(MKDIR, 'M', mkdir, (const char *path, mode_t mode), path, NULL, path, mode)
NAME_CALL(RMDIR, 'X', rmdir, (const char *path), path, NULL, path)
NAME_CALL(UNLINK, 'U', unlink, (const char *path), path, NULL, path)
NAME_CALL(RENAME, 'R', rename, (const char *path, const char *target), path, target, path, target)
