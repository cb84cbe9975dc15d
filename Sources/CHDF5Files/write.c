#include "CHDF5Files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include "library.h"

// MARK: Filter 32015

/// Zstd as HDF5's pipeline calls it, so that the library itself can decode and, asked to, encode. Its client value is the level.
static size_t zstd_filter(unsigned flags, size_t count, const unsigned values[], size_t size, size_t *room, void **buffer) {
    void *result = NULL;
    size_t length;
    if (flags & H5Z_FLAG_REVERSE) {
        unsigned long long content = ZSTD_getFrameContentSize(*buffer, size);
        if (content == ZSTD_CONTENTSIZE_ERROR || content == ZSTD_CONTENTSIZE_UNKNOWN || content > (1ULL << 32) || content == 0) return 0;
        if (!(result = malloc((size_t)content))) return 0;
        length = ZSTD_decompress(result, (size_t)content, *buffer, size);
        *room = (size_t)content;
    } else {
        size_t bound = ZSTD_compressBound(size);
        if (!(result = malloc(bound))) return 0;
        length = ZSTD_compress(result, bound, *buffer, size, count > 0 ? (int)values[0] : 1);
        *room = bound;
    }
    if (ZSTD_isError(length)) {
        free(result);
        return 0;
    }
    free(*buffer);
    *buffer = result;
    return length;
}

static const H5Z_class2_t zstd_class = {H5Z_CLASS_T_VERS, CH5_FILTER_ZSTD, 1, 1, "zstd", NULL, NULL, zstd_filter};

// MARK: Files

/// What the system said when a call of the library last failed.
static int reason;

int ch5_reason(void) { return reason; }

/// Starts a call: nothing has been said yet.
static void begin(void) { errno = 0; }

/// Ends one with its result. Of what the system said only that counts which ends a write.
static int end(int result) {
    if (result >= 0) return 0;
    int said = errno;
    reason = said == ENOSPC || said == EDQUOT || said == EFBIG || said == EROFS || said == EACCES || said == EMFILE ? said : 0;
    return -1;
}

int64_t ch5_create(const char *path) {
    // Files are closed here, one by one. The library's own closing at exit crashes over files that could not be.
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    if (H5Zfilter_avail(CH5_FILTER_ZSTD) <= 0 && H5Zregister(&zstd_class) < 0) return -1;
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_FILE_CREATE);
    // Links inside group headers (HDF5 1.8) keep a hundred thousand small groups small.
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
    H5Pset_obj_track_times(creation, 0);
    // See write_index in index.c.
    if (ch5.set_locking) ch5.set_locking(access, 0, 1);
    hid_t file;
    do {
        // The library does not ask again.
        begin();
        file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    } while (file < 0 && errno == EINTR);
    end(file < 0 ? -1 : 0);
    H5Pclose(access);
    H5Pclose(creation);
    return file;
}

int ch5_close(int64_t file) {
    begin();
    return end(H5Fclose(file));
}

static hid_t element_type(int type) {
    switch (type) {
    case CH5_U8: return H5Tcopy(H5T_STD_U8LE);
    case CH5_I8: return H5Tcopy(H5T_STD_I8LE);
    case CH5_U16: return H5Tcopy(H5T_STD_U16LE);
    case CH5_I16: return H5Tcopy(H5T_STD_I16LE);
    case CH5_U32: return H5Tcopy(H5T_STD_U32LE);
    case CH5_I32: return H5Tcopy(H5T_STD_I32LE);
    case CH5_U64: return H5Tcopy(H5T_STD_U64LE);
    case CH5_I64: return H5Tcopy(H5T_STD_I64LE);
    case CH5_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case CH5_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case CH5_F16: {
        // IEEE half as h5py defines it.
        hid_t half = H5Tcopy(H5T_IEEE_F32LE);
        H5Tset_fields(half, 15, 10, 5, 0, 10);
        H5Tset_size(half, 2);
        H5Tset_ebias(half, 15);
        return half;
    }
    case CH5_C64: {
        hid_t complex = H5Tcreate(H5T_COMPOUND, 8);
        H5Tinsert(complex, "r", 0, H5T_IEEE_F32LE);
        H5Tinsert(complex, "i", 4, H5T_IEEE_F32LE);
        return complex;
    }
    case CH5_BOOL: {
        hid_t boolean = H5Tenum_create(H5T_STD_I8LE);
        int8_t value = 0;
        H5Tenum_insert(boolean, "FALSE", &value);
        value = 1;
        H5Tenum_insert(boolean, "TRUE", &value);
        return boolean;
    }
    default: return -1;
    }
}

static int set_text(hid_t object, const char *name, const char *text) {
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    // Of variable length and UTF-8, which h5py gives back as str.
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    int result = attribute < 0 || H5Awrite(attribute, type, &text) < 0 ? -1 : 0;
    if (attribute >= 0) H5Aclose(attribute);
    H5Tclose(type);
    H5Sclose(space);
    return result;
}

static int set_numbers(hid_t object, const char *name, int count, const uint64_t *values) {
    hsize_t size = (hsize_t)count;
    hid_t space = count > 0 ? H5Screate_simple(1, &size, NULL) : H5Screate(H5S_NULL);
    hid_t attribute = H5Acreate2(object, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    int result = attribute < 0 || (count > 0 && H5Awrite(attribute, H5T_NATIVE_UINT64, values) < 0) ? -1 : 0;
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    return result;
}

/// Makes the groups that a path leads through, without the times that the library would note in them: the same tensors give the same bytes.
static int make_groups(hid_t file, const char *path) {
    char *group = strdup(path);
    if (!group) return -1;
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(creation, 0);
    int result = 0;
    for (char *slash = strchr(group, '/'); slash && result == 0; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (H5Lexists(file, group, H5P_DEFAULT) <= 0) {
            hid_t made = H5Gcreate2(file, group, H5P_DEFAULT, creation, H5P_DEFAULT);
            if (made < 0) result = -1;
            else H5Gclose(made);
        }
        *slash = '/';
    }
    H5Pclose(creation);
    free(group);
    return result;
}

int64_t ch5_create_dataset(int64_t file, const ch5_description *d) {
    begin();
    reason = 0;
    if (make_groups(file, d->name) < 0) return -1;
    hid_t type = element_type(d->type);
    hid_t space = d->rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(d->rank, (const hsize_t *)d->shape, NULL);
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(creation, 0);
    // Every element is written.
    H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
    if (d->chunk) {
        H5Pset_chunk(creation, d->rank, (const hsize_t *)d->chunk);
        if (d->shuffle) H5Pset_shuffle(creation);
        if (d->filter == CH5_FILTER_DEFLATE) H5Pset_deflate(creation, d->level);
        if (d->filter == CH5_FILTER_ZSTD) H5Pset_filter(creation, CH5_FILTER_ZSTD, H5Z_FLAG_MANDATORY, 1, &d->level);
    } else {
        H5Pset_layout(creation, H5D_CONTIGUOUS);
        H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
    }
    hid_t dataset = H5Dcreate2(file, d->name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (dataset >= 0 && ((d->dtype && set_text(dataset, "safetensors_dtype", d->dtype) < 0)
                         || (d->true_rank >= 0 && set_numbers(dataset, "safetensors_shape", d->true_rank, d->true_shape) < 0))) {
        end(-1);
        H5Dclose(dataset);
        dataset = -1;
    } else if (dataset < 0) {
        end(-1);
    }
    H5Pclose(creation);
    H5Sclose(space);
    H5Tclose(type);
    return dataset;
}

int ch5_write_chunk(int64_t dataset, const uint64_t *offset, const void *bytes, size_t size) {
    begin();
    return end(H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, (const hsize_t *)offset, size, bytes));
}

int ch5_write_whole(int64_t dataset, const void *bytes) {
    hid_t type = H5Dget_type(dataset);
    begin();
    int result = end(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes));
    H5Tclose(type);
    return result;
}

int64_t ch5_data_offset(int64_t dataset) {
    haddr_t address = H5Dget_offset(dataset);
    return address == HADDR_UNDEF ? -1 : (int64_t)address;
}

int ch5_close_dataset(int64_t dataset) {
    begin();
    return end(H5Dclose(dataset));
}
