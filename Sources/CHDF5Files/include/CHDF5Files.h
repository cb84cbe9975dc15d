// HDF5 files through libhdf5. Reading is split in two: where the data lie is asked in a child process, because the library is known to
// crash on damaged files; the data themselves are then read by offset, without it.
#ifndef CHDF5_FILES_H
#define CHDF5_FILES_H

#include <stddef.h>
#include <stdint.h>

/// Loads libhdf5, which all the others need; once is enough. -1 with a reason if there is none that can be used.
int ch5_load(char *reason, size_t size);

/// Writes the library's version, "1.14.0", once it is loaded.
void ch5_version(char *text, size_t size);

/// Starts a child that writes the index of `path` to the returned descriptor and exits. -1 if none could be started.
/// `memory` bounds what the child may allocate, `seconds` its processor time.
int ch5_open_index(const char *path, size_t memory, unsigned seconds, int *child);

/// Waits for the child: its exit status, or minus the signal that ended it.
int ch5_wait(int child);

// What the child writes is a sequence of records of little-endian numbers, each begun by one of these bytes.
typedef enum {
    CH5_DATASET = 1,     // see write_dataset in index.c
    CH5_SKIPPED = 2,     // a name and the reason why it is no tensor
    CH5_END = 3,
    CH5_FAILED = 4,      // a text
    CH5_UNREADABLE = 5,  // the system's error number
} CH5Record;

typedef enum { CH5_INTEGER = 0, CH5_FLOAT = 1, CH5_OTHER = 2, CH5_BOOLEAN = 3 } CH5Kind;
typedef enum { CH5_CONTIGUOUS = 0, CH5_CHUNKED = 1, CH5_COMPACT = 2 } CH5Layout;

/// The filter number registered for zstd (https://github.com/HDFGroup/hdf5_plugins).
#define CH5_FILTER_ZSTD 32015
#define CH5_FILTER_DEFLATE 1
#define CH5_FILTER_SHUFFLE 2
#define CH5_FILTER_FLETCHER32 3

// Writing. All return negative numbers where the library failed; its calls are not made from two threads at once.

/// Creates a file; the handle is closed by ch5_close.
int64_t ch5_create(const char *path);

/// The system's error number of the call that last failed here, 0 if the system said nothing. One thread at a time, as all that writes.
int ch5_reason(void);

int ch5_close(int64_t file);

/// Element types of datasets.
typedef enum {
    CH5_U8, CH5_I8, CH5_U16, CH5_I16, CH5_U32, CH5_I32, CH5_U64, CH5_I64, CH5_F16, CH5_F32, CH5_F64, CH5_C64, CH5_BOOL
} CH5ElementType;

typedef struct {
    const char *name;      // a path; its groups are made as needed
    int type;
    int rank;
    const uint64_t *shape;
    const uint64_t *chunk; // NULL for one contiguous piece
    int shuffle;           // whether chunks are shuffled
    int filter;            // 0, CH5_FILTER_DEFLATE or CH5_FILTER_ZSTD
    unsigned level;
    const char *dtype;     // attribute safetensors_dtype, or NULL
    int true_rank;         // attribute safetensors_shape, or -1
    const uint64_t *true_shape;
} ch5_description;

int64_t ch5_create_dataset(int64_t file, const ch5_description *description);
/// A chunk whose filters have been applied by the caller; `offset` is its first element.
int ch5_write_chunk(int64_t dataset, const uint64_t *offset, const void *bytes, size_t size);
/// All elements of a contiguous dataset.
int ch5_write_whole(int64_t dataset, const void *bytes);
int ch5_close_dataset(int64_t dataset);

/// First byte of a contiguous dataset's data in the file, or -1.
int64_t ch5_data_offset(int64_t dataset);

#endif
