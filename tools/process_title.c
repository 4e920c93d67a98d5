/*
 * Preloaded into nginx under valgrind: has the kernel show nginx's own arguments as the process's, so that the titles nginx gives its
 * processes ("nginx: worker process") are seen in /proc and by ps. Without it they show valgrind's command line, and the tests, which tell
 * workers by their titles, see none.
 *
 * Moves two of the addresses that the kernel keeps of a process (PR_SET_MM_MAP, which needs no capability) and hands back the others as
 * /proc/self/stat tells them. Where the kernel does not offer that (no CONFIG_CHECKPOINT_RESTORE) nothing changes.
 */
#include <linux/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

/* Fields of /proc/PID/stat, counted from 1 as proc(5) does. */
enum { STATE = 3, START_CODE = 26, END_CODE, START_STACK, START_DATA = 45, END_DATA, START_BRK, ENV_START = 50, ENV_END, FIELDS };

__attribute__((constructor)) static void show_own_arguments(int argc, char **argv)
{
    unsigned long long field[FIELDS] = {0};
    char line[2048] = "", *word;
    FILE *stat = fopen("/proc/self/stat", "r");
    int i;

    if (stat == NULL || argc < 1) {
        return;
    }
    word = fgets(line, sizeof(line), stat) ? strrchr(line, ')') : NULL;
    fclose(stat);
    word = word ? strtok(word + 1, " ") : NULL;
    for (i = STATE; word && i < FIELDS; i++, word = strtok(NULL, " ")) {
        sscanf(word, "%llu", &field[i]);
    }
    if (i < FIELDS) {
        return;
    }
    struct prctl_mm_map map = {
        .start_code = field[START_CODE],
        .end_code = field[END_CODE],
        .start_data = field[START_DATA],
        .end_data = field[END_DATA],
        .start_brk = field[START_BRK],
        .brk = field[START_BRK], /* valgrind keeps a heap of its own instead */
        .start_stack = field[START_STACK],
        .arg_start = (unsigned long) argv[0],
        .arg_end = (unsigned long) argv[argc - 1] + strlen(argv[argc - 1]) + 1,
        .env_start = field[ENV_START],
        .env_end = field[ENV_END],
        .exe_fd = -1,
    };
    prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0);
}
