#include "CHDF5Files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#include "library.h"

// MARK: What the child sends

typedef struct {
    uint8_t bytes[1 << 16];
    size_t count;
    int descriptor;
} output;

static void flush_output(output *out) {
    size_t done = 0;
    while (done < out->count) {
        ssize_t n = write(out->descriptor, out->bytes + done, out->count - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) _exit(3);
        done += (size_t)n;
    }
    out->count = 0;
}

static void put(output *out, const void *bytes, size_t count) {
    const uint8_t *from = bytes;
    while (count > 0) {
        size_t room = sizeof out->bytes - out->count, n = count < room ? count : room;
        memcpy(out->bytes + out->count, from, n);
        out->count += n;
        from += n;
        count -= n;
        if (out->count == sizeof out->bytes) flush_output(out);
    }
}

static void put_number(output *out, uint64_t value, int size) {
    uint8_t bytes[8];
    for (int i = 0; i < size; i++) bytes[i] = (uint8_t)(value >> (8 * i));
    put(out, bytes, (size_t)size);
}

static void put_text(output *out, const char *text, size_t count) {
    if (count > 0xFFFF) count = 0xFFFF;
    put_number(out, count, 2);
    put(out, text, count);
}

static void skip(output *out, const char *name, const char *reason) {
    put_number(out, CH5_SKIPPED, 1);
    put_text(out, name, strlen(name));
    put_text(out, reason, strlen(reason));
}

/// Whether the system, not the file, is why the library's last call failed; it is then told instead of damage.
/// Of what the system says only that counts which ends an open or a read: the library looks for other things, too.
static int put_system_error(output *out) {
    int said = errno;
    if (said != EIO && said != ESTALE && said != EMFILE && said != ENFILE && said != EACCES) return 0;
    put_number(out, CH5_UNREADABLE, 1);
    put_number(out, (uint64_t)said, 2);
    return 1;
}

/// A dataset that must hold numbers and cannot be read: without it the file would be another model.
static void refuse(output *out, const char *name, const char *reason) {
    if (put_system_error(out)) return;
    char text[512];
    snprintf(text, sizeof text, "dataset %s cannot be read: %s", name, reason);
    put_number(out, CH5_FAILED, 1);
    put_text(out, text, strlen(text));
}

// MARK: What is in the file

/// A string attribute of at most 63 bytes, as h5py and we write them; empty if there is none.
static void string_attribute(hid_t object, const char *name, char text[64]) {
    text[0] = 0;
    if (H5Aexists(object, name) <= 0) return;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0) return;
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    if (type >= 0 && space >= 0 && H5Tget_class(type) == H5T_STRING && H5Sget_simple_extent_npoints(space) == 1) {
        if (H5Tis_variable_str(type) > 0) {
            char *value = NULL;
            hid_t memory = H5Tcopy(H5T_C_S1);
            H5Tset_size(memory, H5T_VARIABLE);
            H5Tset_cset(memory, H5Tget_cset(type));
            if (H5Aread(attribute, memory, &value) >= 0 && value) snprintf(text, 64, "%s", value);
            free(value);
            H5Tclose(memory);
        } else if (H5Tget_size(type) < 64) {
            char value[64] = {0};
            if (H5Aread(attribute, type, value) >= 0) snprintf(text, 64, "%s", value);
        }
    }
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    H5Aclose(attribute);
}

/// An attribute of at most 32 unsigned numbers; returns how many, or -1.
static int numbers_attribute(hid_t object, const char *name, uint64_t values[32]) {
    if (H5Aexists(object, name) <= 0) return -1;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0) return -1;
    hid_t space = H5Aget_space(attribute), type = H5Aget_type(attribute);
    hssize_t count = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (count > 32 || type < 0 || H5Tget_class(type) != H5T_INTEGER) count = -1;
    if (count > 0 && H5Aread(attribute, H5T_NATIVE_UINT64, values) < 0) count = -1;
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    H5Aclose(attribute);
    return (int)count;
}

typedef struct {
    int class_, is_signed, size, big_endian, exponent_bits, mantissa_bits;
} element;

static element describe(hid_t type) {
    element e = {CH5_OTHER, 0, (int)H5Tget_size(type), 0, 0, 0};
    H5T_class_t class_ = H5Tget_class(type);
    if (class_ == H5T_INTEGER || class_ == H5T_BITFIELD) {
        e.class_ = CH5_INTEGER;
        e.is_signed = class_ == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_2;
        e.big_endian = H5Tget_order(type) == H5T_ORDER_BE;
        if (H5Tget_precision(type) != 8 * (size_t)e.size) e.class_ = CH5_OTHER;
    } else if (class_ == H5T_FLOAT) {
        size_t sign, exponent, exponent_size, mantissa, mantissa_size;
        e.class_ = CH5_FLOAT;
        e.big_endian = H5Tget_order(type) == H5T_ORDER_BE;
        if (H5Tget_fields(type, &sign, &exponent, &exponent_size, &mantissa, &mantissa_size) < 0 || H5Tget_precision(type) != 8 * (size_t)e.size) {
            e.class_ = CH5_OTHER;
        } else {
            e.exponent_bits = (int)exponent_size;
            e.mantissa_bits = (int)mantissa_size;
        }
    } else if (class_ == H5T_ENUM && e.size == 1 && H5Tget_nmembers(type) == 2) {
        e.class_ = CH5_BOOLEAN;  // as h5py stores numpy.bool
    } else if (class_ == H5T_COMPOUND && H5Tget_nmembers(type) == 2 && e.size == 8) {
        // h5py's complex64: two F32.
        hid_t part = H5Tget_member_type(type, 0);
        if (part >= 0 && H5Tget_class(part) == H5T_FLOAT && H5Tget_size(part) == 4 && H5Tget_order(part) == H5T_ORDER_LE) {
            e.class_ = CH5_FLOAT;
            e.exponent_bits = 8;
            e.mantissa_bits = 0;
        }
        if (part >= 0) H5Tclose(part);
    }
    return e;
}

enum { MAX_RANK = 32, MAX_CHUNKS = 1 << 24 };

/// Chunks by their place in the grid: offset and size in the file, and which filters were left out.
static int write_chunks(output *out, hid_t dataset, int rank, const hsize_t *shape, const hsize_t *chunk) {
    uint64_t counts[MAX_RANK], total = 1;
    for (int i = 0; i < rank; i++) {
        if (chunk[i] == 0) return -1;
        counts[i] = (shape[i] + chunk[i] - 1) / chunk[i];
        if (counts[i] != 0 && total > MAX_CHUNKS / counts[i]) return -1;
        total *= counts[i];
    }
    put_number(out, total, 8);
    hsize_t place[MAX_RANK] = {0};
    for (uint64_t n = 0; n < total; n++) {
        unsigned mask = 0;
        haddr_t address = HADDR_UNDEF;
        hsize_t size = 0;
        if (H5Dget_chunk_info_by_coord(dataset, place, &mask, &address, &size) < 0) address = HADDR_UNDEF;
        put_number(out, address == HADDR_UNDEF ? UINT64_MAX : (uint64_t)address, 8);
        put_number(out, size, 8);
        put_number(out, mask, 4);
        for (int i = rank - 1; i >= 0; i--) {
            place[i] += chunk[i];
            if (place[i] < shape[i]) break;
            place[i] = 0;
        }
    }
    return 0;
}

/// DATASET: name, class, signed, element size, big-endian, exponent bits, mantissa bits (bytes); dtype (text); rank of the attribute's
/// shape (byte, 0xFF for none) and its numbers; rank and shape; fill value (element size bytes); layout (byte), and by it: address and
/// size; or chunk shape, filters (count; each number, flags, count and values), chunks; or size and bytes.
static void write_dataset(output *out, const char *name, hid_t dataset) {
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset), creation = H5Dget_create_plist(dataset);
    hsize_t shape[MAX_RANK], chunk[MAX_RANK];
    const char *reason = NULL, *fault = NULL;
    int rank = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    if (type < 0 || space < 0 || creation < 0) {
        fault = "its header is damaged";
        goto done;
    }
    element e = describe(type);
    // Texts and tables are no tensors. Bytes without a number type may be: h5py stores BF16 so, and only an attribute can say it.
    H5T_class_t kind = H5Tget_class(type);
    int is_plain = kind == H5T_OPAQUE || kind == H5T_INTEGER || kind == H5T_FLOAT || kind == H5T_BITFIELD;
    if (e.class_ == CH5_OTHER && (!is_plain || e.size > 8 || e.size < 1)) {
        reason = "its elements are no numbers that a tensor can have";
        goto done;
    }
    if (H5Sget_simple_extent_type(space) == H5S_NULL) {
        reason = "it has no elements and no shape";
        goto done;
    }
    if (rank < 0 || rank > MAX_RANK || H5Sget_simple_extent_dims(space, shape, NULL) < 0) {
        fault = "its shape is damaged";
        goto done;
    }
    H5D_layout_t layout = H5Pget_layout(creation);
    if ((layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED && layout != H5D_COMPACT) || H5Pget_external_count(creation) > 0) {
        fault = "its data lie in other files";
        goto done;
    }
    if (layout == H5D_CHUNKED && H5Pget_chunk(creation, MAX_RANK, chunk) != rank) {
        fault = "its chunks are damaged";
        goto done;
    }
    put_number(out, CH5_DATASET, 1);
    put_text(out, name, strlen(name));
    put_number(out, (uint64_t)e.class_, 1);
    put_number(out, (uint64_t)e.is_signed, 1);
    put_number(out, (uint64_t)e.size, 1);
    put_number(out, (uint64_t)e.big_endian, 1);
    put_number(out, (uint64_t)e.exponent_bits, 1);
    put_number(out, (uint64_t)e.mantissa_bits, 1);
    char dtype[64];
    string_attribute(dataset, "safetensors_dtype", dtype);
    put_text(out, dtype, strlen(dtype));
    uint64_t true_shape[32];
    int true_rank = numbers_attribute(dataset, "safetensors_shape", true_shape);
    put_number(out, true_rank < 0 ? 0xFF : (uint64_t)true_rank, 1);
    for (int i = 0; i < true_rank; i++) put_number(out, true_shape[i], 8);
    put_number(out, (uint64_t)rank, 1);
    for (int i = 0; i < rank; i++) put_number(out, shape[i], 8);
    uint8_t fill[8] = {0};
    H5D_fill_value_t defined = H5D_FILL_VALUE_UNDEFINED;
    if (H5Pfill_value_defined(creation, &defined) >= 0 && defined == H5D_FILL_VALUE_USER_DEFINED) H5Pget_fill_value(creation, type, fill);
    put(out, fill, (size_t)e.size);
    if (layout == H5D_CONTIGUOUS) {
        haddr_t address = H5Dget_offset(dataset);
        put_number(out, CH5_CONTIGUOUS, 1);
        put_number(out, address == HADDR_UNDEF ? UINT64_MAX : (uint64_t)address, 8);
        put_number(out, H5Dget_storage_size(dataset), 8);
    } else if (layout == H5D_COMPACT) {
        hsize_t size = H5Dget_storage_size(dataset);
        uint8_t *bytes = calloc(1, size > 0 && size <= 1 << 16 ? (size_t)size : 1);
        put_number(out, CH5_COMPACT, 1);
        if (!bytes || size > 1 << 16 || (size > 0 && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) < 0)) size = 0;
        put_number(out, size, 8);
        put(out, bytes, (size_t)size);
        free(bytes);
    } else {
        put_number(out, CH5_CHUNKED, 1);
        for (int i = 0; i < rank; i++) put_number(out, chunk[i], 8);
        int filters = H5Pget_nfilters(creation);
        put_number(out, filters < 0 ? 0 : (uint64_t)filters, 1);
        for (int i = 0; i < filters; i++) {
            unsigned flags = 0, values[32] = {0};
            size_t count = 32;
            H5Z_filter_t filter = H5Pget_filter2(creation, (unsigned)i, &flags, &count, values, 0, NULL, NULL);
            if (count > 32) count = 32;
            put_number(out, (uint64_t)(uint32_t)filter, 4);
            put_number(out, flags, 4);
            put_number(out, count, 1);
            for (size_t k = 0; k < count; k++) put_number(out, values[k], 4);
        }
        if (write_chunks(out, dataset, rank, shape, chunk) < 0) {
            // The record ends here with no chunks; the reader finds fewer than the shape needs.
            put_number(out, UINT64_MAX, 8);
        }
    }
done:
    if (reason) skip(out, name, reason);
    if (fault) refuse(out, name, fault);
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (creation >= 0) H5Pclose(creation);
}

static herr_t visit(hid_t root, const char *name, const H5O_info_t *info, void *context) {
    output *out = context;
    if (info->type != H5O_TYPE_DATASET) return 0;
    errno = 0;
    hid_t dataset = H5Dopen2(root, name, H5P_DEFAULT);
    if (dataset < 0) {
        refuse(out, name, "it cannot be opened");
        return 0;
    }
    write_dataset(out, name, dataset);
    H5Dclose(dataset);
    return 0;
}

static void write_index(const char *path, int descriptor) {
    static output out;
    out.descriptor = descriptor;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    // Locks go with descriptors that children inherit, so they would outlive their file; and a finished file has no writers.
    if (ch5.set_locking) ch5.set_locking(access, 0, 1);
    hid_t file;
    do {
        // The library does not ask again.
        errno = 0;
        file = H5Fopen(path, H5F_ACC_RDONLY, access);
    } while (file < 0 && errno == EINTR);
    const char *text = NULL;
    if (file < 0) {
        text = "libhdf5 cannot open it: it is damaged, truncated or was never closed";
    } else {
        errno = 0;
        if (ch5.visit(file, H5_INDEX_NAME, H5_ITER_INC, visit, &out) < 0) text = "libhdf5 cannot follow its groups: it is damaged";
    }
    if (text) {
        if (!put_system_error(&out)) {
            put_number(&out, CH5_FAILED, 1);
            put_text(&out, text, strlen(text));
        }
    } else {
        put_number(&out, CH5_END, 1);
    }
    flush_output(&out);
    // Nothing is closed: the process ends here, and closing a damaged file is one more way to crash.
}

// MARK: The child

static void bound(int resource, rlim_t limit) {
    struct rlimit value;
    if (getrlimit(resource, &value) != 0) return;
    if (value.rlim_max != RLIM_INFINITY && value.rlim_max < limit) limit = value.rlim_max;
    value.rlim_cur = limit;
    value.rlim_max = limit;
    setrlimit(resource, &value);
}

/// What the process already addresses: limits count it too.
static rlim_t address_space(void) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%lu", &pages) != 1) pages = 0;
    fclose(file);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

int ch5_open_index(const char *path, size_t memory, unsigned seconds, int *child) {
    int ends[2];
    if (pipe(ends) != 0) return -1;
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    rlim_t addressed = address_space();
    pid_t process = fork();
    if (process < 0) {
        close(ends[0]);
        close(ends[1]);
        return -1;
    }
    if (process == 0) {
        close(ends[0]);
        // No core files, no crash handlers of the parent.
        bound(RLIMIT_CORE, 0);
        bound(RLIMIT_CPU, seconds);
#if defined(__linux__)
        if (addressed > 0) bound(RLIMIT_AS, addressed + memory);
#endif
        static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTRAP};
        for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) signal(fatal[i], SIG_DFL);
        (void)addressed;
        (void)memory;
        int null = open("/dev/null", O_WRONLY);
        if (null >= 0) dup2(null, 2);
        write_index(path, ends[1]);
        _exit(0);
    }
    close(ends[1]);
    *child = (int)process;
    return ends[0];
}

int ch5_wait(int child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return 255;
    }
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}
