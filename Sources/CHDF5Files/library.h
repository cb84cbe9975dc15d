// libhdf5, loaded when a file asks for it: who converts safetensors needs neither the library nor the dozens that it brings along.
//
// The functions keep their names in the sources that call them; behind each stands a pointer that ch5_load fills in.
#ifndef CHDF5_LIBRARY_H
#define CHDF5_LIBRARY_H

// Newer libraries keep 1.10's calls under this name.
#define H5_USE_110_API 1
#include "../CHDF5/shim.h"

#define CH5_FUNCTIONS(X) \
    X(H5Aclose) X(H5Acreate2) X(H5Aexists) X(H5Aget_space) X(H5Aget_type) X(H5Aopen) X(H5Aread) X(H5Awrite) X(H5Dclose) \
    X(H5Dcreate2) X(H5Dget_chunk_info_by_coord) X(H5Dget_create_plist) X(H5Dget_offset) X(H5Dget_space) X(H5Dget_storage_size) \
    X(H5Dget_type) X(H5Dopen2) X(H5Dread) X(H5Dwrite) X(H5Dwrite_chunk) X(H5Eset_auto2) X(H5Fclose) X(H5Fcreate) X(H5Fopen) \
    X(H5Gclose) X(H5Gcreate2) X(H5Lexists) X(H5Pclose) X(H5Pcreate) X(H5Pfill_value_defined) X(H5Pget_chunk) \
    X(H5Pget_external_count) X(H5Pget_fill_value) X(H5Pget_filter2) X(H5Pget_layout) X(H5Pget_nfilters) X(H5Pset_alloc_time) \
    X(H5Pset_chunk) X(H5Pset_deflate) X(H5Pset_fill_time) X(H5Pset_filter) X(H5Pset_layout) X(H5Pset_libver_bounds) \
    X(H5Pset_obj_track_times) X(H5Pset_shuffle) X(H5Sclose) X(H5Screate) X(H5Screate_simple) X(H5Sget_simple_extent_dims) \
    X(H5Sget_simple_extent_ndims) X(H5Sget_simple_extent_npoints) X(H5Sget_simple_extent_type) X(H5Tclose) X(H5Tcopy) \
    X(H5Tcreate) X(H5Tenum_create) X(H5Tenum_insert) X(H5Tget_class) X(H5Tget_cset) X(H5Tget_fields) X(H5Tget_member_type) \
    X(H5Tget_nmembers) X(H5Tget_order) X(H5Tget_precision) X(H5Tget_sign) X(H5Tget_size) X(H5Tinsert) X(H5Tis_variable_str) \
    X(H5Tset_cset) X(H5Tset_ebias) X(H5Tset_fields) X(H5Tset_size) X(H5Zfilter_avail) X(H5Zregister) X(H5dont_atexit) \
    X(H5get_libversion) X(H5open)

/// Numbers of types and classes, which the library works out when it starts.
#define CH5_NUMBERS(X) \
    X(H5P_CLS_DATASET_CREATE_ID_g) X(H5P_CLS_FILE_ACCESS_ID_g) X(H5P_CLS_FILE_CREATE_ID_g) X(H5P_CLS_GROUP_CREATE_ID_g) \
    X(H5T_C_S1_g) X(H5T_IEEE_F32LE_g) X(H5T_IEEE_F64LE_g) X(H5T_NATIVE_UINT64_g) X(H5T_STD_I16LE_g) X(H5T_STD_I32LE_g) \
    X(H5T_STD_I64LE_g) X(H5T_STD_I8LE_g) X(H5T_STD_U16LE_g) X(H5T_STD_U32LE_g) X(H5T_STD_U64LE_g) X(H5T_STD_U8LE_g)

typedef herr_t ch5_visit(hid_t object, H5_index_t index, H5_iter_order_t order, H5O_iterate_t step, void *data);
typedef herr_t ch5_set_locking(hid_t list, hbool_t uses, hbool_t ignores);

typedef struct {
#define X(name) __typeof__(name) *name;
    CH5_FUNCTIONS(X)
#undef X
#define X(name) hid_t *name;
    CH5_NUMBERS(X)
#undef X
    /// 1.10's H5Ovisit, which newer libraries call H5Ovisit1.
    ch5_visit *visit;
    /// NULL before 1.10.7.
    ch5_set_locking *set_locking;
} ch5_library;

extern ch5_library ch5;

// The headers would end the process over a library of another version; what is called here has not changed since 1.10, and is looked up by name.
#undef H5CHECK
#define H5CHECK

#ifndef CH5_LOADS
#define H5Aclose ch5.H5Aclose
#define H5Acreate2 ch5.H5Acreate2
#define H5Aexists ch5.H5Aexists
#define H5Aget_space ch5.H5Aget_space
#define H5Aget_type ch5.H5Aget_type
#define H5Aopen ch5.H5Aopen
#define H5Aread ch5.H5Aread
#define H5Awrite ch5.H5Awrite
#define H5Dclose ch5.H5Dclose
#define H5Dcreate2 ch5.H5Dcreate2
#define H5Dget_chunk_info_by_coord ch5.H5Dget_chunk_info_by_coord
#define H5Dget_create_plist ch5.H5Dget_create_plist
#define H5Dget_offset ch5.H5Dget_offset
#define H5Dget_space ch5.H5Dget_space
#define H5Dget_storage_size ch5.H5Dget_storage_size
#define H5Dget_type ch5.H5Dget_type
#define H5Dopen2 ch5.H5Dopen2
#define H5Dread ch5.H5Dread
#define H5Dwrite ch5.H5Dwrite
#define H5Dwrite_chunk ch5.H5Dwrite_chunk
#define H5Eset_auto2 ch5.H5Eset_auto2
#define H5Fclose ch5.H5Fclose
#define H5Fcreate ch5.H5Fcreate
#define H5Fopen ch5.H5Fopen
#define H5Gclose ch5.H5Gclose
#define H5Gcreate2 ch5.H5Gcreate2
#define H5Lexists ch5.H5Lexists
#define H5Pclose ch5.H5Pclose
#define H5Pcreate ch5.H5Pcreate
#define H5Pfill_value_defined ch5.H5Pfill_value_defined
#define H5Pget_chunk ch5.H5Pget_chunk
#define H5Pget_external_count ch5.H5Pget_external_count
#define H5Pget_fill_value ch5.H5Pget_fill_value
#define H5Pget_filter2 ch5.H5Pget_filter2
#define H5Pget_layout ch5.H5Pget_layout
#define H5Pget_nfilters ch5.H5Pget_nfilters
#define H5Pset_alloc_time ch5.H5Pset_alloc_time
#define H5Pset_chunk ch5.H5Pset_chunk
#define H5Pset_deflate ch5.H5Pset_deflate
#define H5Pset_fill_time ch5.H5Pset_fill_time
#define H5Pset_filter ch5.H5Pset_filter
#define H5Pset_layout ch5.H5Pset_layout
#define H5Pset_libver_bounds ch5.H5Pset_libver_bounds
#define H5Pset_obj_track_times ch5.H5Pset_obj_track_times
#define H5Pset_shuffle ch5.H5Pset_shuffle
#define H5Sclose ch5.H5Sclose
#define H5Screate ch5.H5Screate
#define H5Screate_simple ch5.H5Screate_simple
#define H5Sget_simple_extent_dims ch5.H5Sget_simple_extent_dims
#define H5Sget_simple_extent_ndims ch5.H5Sget_simple_extent_ndims
#define H5Sget_simple_extent_npoints ch5.H5Sget_simple_extent_npoints
#define H5Sget_simple_extent_type ch5.H5Sget_simple_extent_type
#define H5Tclose ch5.H5Tclose
#define H5Tcopy ch5.H5Tcopy
#define H5Tcreate ch5.H5Tcreate
#define H5Tenum_create ch5.H5Tenum_create
#define H5Tenum_insert ch5.H5Tenum_insert
#define H5Tget_class ch5.H5Tget_class
#define H5Tget_cset ch5.H5Tget_cset
#define H5Tget_fields ch5.H5Tget_fields
#define H5Tget_member_type ch5.H5Tget_member_type
#define H5Tget_nmembers ch5.H5Tget_nmembers
#define H5Tget_order ch5.H5Tget_order
#define H5Tget_precision ch5.H5Tget_precision
#define H5Tget_sign ch5.H5Tget_sign
#define H5Tget_size ch5.H5Tget_size
#define H5Tinsert ch5.H5Tinsert
#define H5Tis_variable_str ch5.H5Tis_variable_str
#define H5Tset_cset ch5.H5Tset_cset
#define H5Tset_ebias ch5.H5Tset_ebias
#define H5Tset_fields ch5.H5Tset_fields
#define H5Tset_size ch5.H5Tset_size
#define H5Zfilter_avail ch5.H5Zfilter_avail
#define H5Zregister ch5.H5Zregister
#define H5dont_atexit ch5.H5dont_atexit
#define H5get_libversion ch5.H5get_libversion
#define H5open ch5.H5open
#define H5P_CLS_DATASET_CREATE_ID_g (*ch5.H5P_CLS_DATASET_CREATE_ID_g)
#define H5P_CLS_FILE_ACCESS_ID_g (*ch5.H5P_CLS_FILE_ACCESS_ID_g)
#define H5P_CLS_FILE_CREATE_ID_g (*ch5.H5P_CLS_FILE_CREATE_ID_g)
#define H5P_CLS_GROUP_CREATE_ID_g (*ch5.H5P_CLS_GROUP_CREATE_ID_g)
#define H5T_C_S1_g (*ch5.H5T_C_S1_g)
#define H5T_IEEE_F32LE_g (*ch5.H5T_IEEE_F32LE_g)
#define H5T_IEEE_F64LE_g (*ch5.H5T_IEEE_F64LE_g)
#define H5T_NATIVE_UINT64_g (*ch5.H5T_NATIVE_UINT64_g)
#define H5T_STD_I16LE_g (*ch5.H5T_STD_I16LE_g)
#define H5T_STD_I32LE_g (*ch5.H5T_STD_I32LE_g)
#define H5T_STD_I64LE_g (*ch5.H5T_STD_I64LE_g)
#define H5T_STD_I8LE_g (*ch5.H5T_STD_I8LE_g)
#define H5T_STD_U16LE_g (*ch5.H5T_STD_U16LE_g)
#define H5T_STD_U32LE_g (*ch5.H5T_STD_U32LE_g)
#define H5T_STD_U64LE_g (*ch5.H5T_STD_U64LE_g)
#define H5T_STD_U8LE_g (*ch5.H5T_STD_U8LE_g)
#endif

#endif
