// How many processors this process may use: machines are shared by affinity (Slurm, taskset) and by quota (containers).
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "include/CKernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>

/// The first line of a file of the process' control group (version 2), or of the one that a container sees as its own; 0 if there is none.
static int group_line(const char *name, char *text, size_t size) {
    char line[512], path[640] = "", own[640];
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file) {
        while (fgets(line, sizeof line, file))
            if (!strncmp(line, "0::", 3)) {
                line[strcspn(line, "\n")] = 0;
                snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", line + 3, name);
            }
        fclose(file);
    }
    snprintf(own, sizeof own, "/sys/fs/cgroup/%s", name);
    const char *candidates[] = {path, own};
    for (int index = 0; index < 2; index++) {
        if (!candidates[index][0] || !(file = fopen(candidates[index], "re"))) continue;
        char *found = fgets(text, (int)size, file);
        fclose(file);
        if (found) return 1;
    }
    return 0;
}

/// Processors that the quota grants, rounded up to whole ones; 0 for no quota.
static long quota(void) {
    char text[128];
    long granted, period;
    if (group_line("cpu.max", text, sizeof text) && sscanf(text, "%ld %ld", &granted, &period) == 2 && granted > 0 && period > 0)
        return (granted + period - 1) / period;
    return 0;
}

int64_t ck_memory_limit(void) {
    char text[128];
    long long bytes;
    return group_line("memory.max", text, sizeof text) && sscanf(text, "%lld", &bytes) == 1 && bytes > 0 ? bytes : 0;
}

int64_t ck_peak_resident(void) {
    char line[256];
    long long found = 0;
    FILE *file = fopen("/proc/self/status", "re");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lld kB", &found) == 1) break;
    fclose(file);
    return found * 1024;
}

int ck_processor_count(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    // More processors than the fixed set holds: ask with a larger one.
    for (int size = 1024; size <= 1 << 16; size *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)size);
        if (!set) break;
        size_t bytes = CPU_ALLOC_SIZE((size_t)size);
        int ok = sched_getaffinity(0, bytes, set) == 0;
        if (ok) count = CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (ok) break;
    }
    long granted = quota();
    if (granted > 0 && granted < count) count = granted;
    return count > 0 ? (int)count : 1;
}
#else
int64_t ck_memory_limit(void) { return 0; }

int64_t ck_peak_resident(void) { return 0; }

int ck_processor_count(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (int)count : 1;
}
#endif
