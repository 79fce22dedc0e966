/* What a program asks of the file system, noted, and refused when a test says so. Loaded with LD_PRELOAD.
 *
 * Only what lies below $FAULTS_ROOT counts. Every call that changes it has a number, from 1 on; `faults_arm(n, errno)`
 * lets the call of that number fail, and one in two of the writes that fail has written half of its bytes by then.
 * $FAULTS_LOG gets a line for every call that worked, the bytes of a write behind its line:
 *
 *     write PATH\tOFFSET\tLENGTH     sync PATH     create PATH     truncate PATH\tSIZE
 *     rename FROM\tTO                unlink PATH   mkdir PATH      rmdir PATH
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>


static long count, armed;
static int fault;

long faults_count(void) { return count; }

void faults_arm(long number, int error) {
    count = 0;
    armed = number;
    fault = error;
}

/* What a name means from a folder's descriptor on; "" where it lies elsewhere. */
static const char *below(int folder, const char *name, char *path) {
    char start[PATH_MAX] = "", link[64];
    const char *root = getenv("FAULTS_ROOT");
    if (name[0] != '/') {
        if (folder == AT_FDCWD) {
            if (!getcwd(start, sizeof start)) return "";
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t length = readlink(link, start, sizeof start - 1);
            if (length < 0) return "";
            start[length] = 0;
        }
    }
    if (snprintf(path, PATH_MAX, "%s%s%s", start, start[0] && name[0] ? "/" : "", name) >= PATH_MAX) return "";
    size_t length = root ? strlen(root) : 0;
    int is_below = length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
    return is_below ? path : "";
}

/* Whether the call is to fail; it counts only where it concerns us. */
static int fails(const char *path) {
    if (!path[0] || ++count != armed) return 0;
    errno = fault;
    return 1;
}

static void note(const char *format, ...) {
    const char *name = getenv("FAULTS_LOG");
    if (!name) return;
    char line[3 * PATH_MAX];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line, format, values), saved = errno;
    va_end(values);
    int log = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (syscall(SYS_write, log, line, length) != length) abort();
    syscall(SYS_close, log);
    errno = saved;
}

static void note_bytes(const void *bytes, size_t length) {
    const char *name = getenv("FAULTS_LOG");
    if (!name) return;
    int log = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND, 0600), saved = errno;
    if (syscall(SYS_write, log, bytes, length) != (long)length || syscall(SYS_write, log, "\n", 1) != 1) abort();
    syscall(SYS_close, log);
    errno = saved;
}

static int open_file(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    const char *mine = below(folder, name, path);
    struct stat found;
    int changes = mine[0] && flags & (O_CREAT | O_TRUNC);
    int is_new = changes && stat(mine, &found);
    if (changes && fails(mine)) return -1;
    int file = syscall(SYS_openat, folder, name, flags, mode);
    if (file >= 0 && is_new && flags & O_CREAT) note("create %s\n", mine);
    if (file >= 0 && changes && !is_new && flags & O_TRUNC) note("truncate %s\t0\n", mine);
    return file;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *name, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return open_file(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags) return open_file(folder, name, flags, mode); }

ssize_t write(int file, const void *bytes, size_t length) {
    char path[PATH_MAX];
    const char *mine = below(file, "", path);
    int refused = fails(mine);
    if (refused && count % 2) return -1;
    ssize_t written = syscall(SYS_write, file, bytes, refused ? length / 2 : length);
    if (mine[0] && written > 0) {
        note("write %s\t%ld\t%zd\n", mine, (long)lseek(file, 0, SEEK_CUR) - written, written);
        note_bytes(bytes, written);
    }
    if (!refused) return written;
    errno = fault;
    return -1;
}

static int sync_file(int file, long call) {
    char path[PATH_MAX];
    const char *mine = below(file, "", path);
    if (fails(mine)) return -1;
    int result = syscall(call, file);
    if (!result && mine[0]) note("sync %s\n", mine);
    return result;
}

int fsync(int file) { return sync_file(file, SYS_fsync); }
int fdatasync(int file) { return sync_file(file, SYS_fdatasync); }

int renameat(int old_folder, const char *old, int new_folder, const char *new) {
    char from[PATH_MAX], to[PATH_MAX];
    const char *mine = below(old_folder, old, from), *target = below(new_folder, new, to);
    if (fails(mine)) return -1;
    int result = syscall(SYS_renameat2, old_folder, old, new_folder, new, 0);
    if (!result && mine[0]) note("rename %s\t%s\n", mine, target);
    return result;
}

int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int unlinkat(int folder, const char *name, int flags) {
    char path[PATH_MAX];
    const char *mine = below(folder, name, path);
    if (fails(mine)) return -1;
    int result = syscall(SYS_unlinkat, folder, name, flags);
    if (!result && mine[0]) note("%s %s\n", flags & AT_REMOVEDIR ? "rmdir" : "unlink", mine);
    return result;
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode) {
    char path[PATH_MAX];
    const char *mine = below(folder, name, path);
    if (fails(mine)) return -1;
    int result = syscall(SYS_mkdirat, folder, name, mode);
    if (!result && mine[0]) note("mkdir %s\n", mine);
    return result;
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

static int cut(int file, long size) {
    char path[PATH_MAX];
    const char *mine = below(file, "", path);
    if (fails(mine)) return -1;
    int result = syscall(SYS_ftruncate, file, size);
    if (!result && mine[0]) note("truncate %s\t%ld\n", mine, size);
    return result;
}

int ftruncate(int file, off_t size) { return cut(file, size); }
int ftruncate64(int file, off64_t size) { return cut(file, size); }

static int cut_path(const char *name, long size) {
    char path[PATH_MAX];
    const char *mine = below(AT_FDCWD, name, path);
    if (fails(mine)) return -1;
    int result = syscall(SYS_truncate, name, size);
    if (!result && mine[0]) note("truncate %s\t%ld\n", mine, size);
    return result;
}

int truncate(const char *name, off_t size) { return cut_path(name, size); }
int truncate64(const char *name, off64_t size) { return cut_path(name, size); }
