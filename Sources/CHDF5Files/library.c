#include "CHDF5Files.h"

#include <dlfcn.h>
#include <stdio.h>

#define CH5_LOADS
#include "library.h"

ch5_library ch5;

/// Serial builds of 1.10 to 2.0, as Linux distributions, Homebrew and the library's own installer call them; then whatever a linker would take.
static const char *const names[] = {
    "libhdf5_serial.so.103", "libhdf5_serial.so.310", "libhdf5_serial.so.200", "libhdf5_serial.so.320", "libhdf5.so.103",
    "libhdf5.so.200", "libhdf5.so.310", "libhdf5.so.320", "libhdf5_serial.so", "libhdf5.so", "libhdf5.dylib",
    "/opt/homebrew/lib/libhdf5.dylib", "/usr/local/lib/libhdf5.dylib",
};

/// Fills every pointer in; the first symbol that is missing, or NULL.
static const char *resolve(void *library) {
#define X(name) \
    if (!(*(void **)&ch5.name = dlsym(library, #name))) return #name;
    CH5_FUNCTIONS(X)
    CH5_NUMBERS(X)
#undef X
    if (!(*(void **)&ch5.visit = dlsym(library, "H5Ovisit1")) && !(*(void **)&ch5.visit = dlsym(library, "H5Ovisit"))) return "H5Ovisit";
    *(void **)&ch5.set_locking = dlsym(library, "H5Pset_file_locking");
    return NULL;
}

int ch5_load(char *reason, size_t size) {
    static int is_loaded;
    if (is_loaded) return 0;
    snprintf(reason, size, "it was not found");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!library) continue;
        const char *missing = resolve(library);
        if (!missing) {
            is_loaded = 1;
            return 0;
        }
        snprintf(reason, size, "%s has no %s: 1.10.5 or newer is needed", names[i], missing);
        dlclose(library);
    }
    return -1;
}

void ch5_version(char *text, size_t size) {
    unsigned numbers[3] = {0, 0, 0};
    ch5.H5get_libversion(&numbers[0], &numbers[1], &numbers[2]);
    snprintf(text, size, "%u.%u.%u", numbers[0], numbers[1], numbers[2]);
}
