/* Offers HTTP load and records what became of each query. One thread, epoll, no pipelining. Run by generator.py.

   Open loop: query i is due at the i-th of the times (doubles, seconds) on stdin. It leaves then, whatever became of
   earlier ones; if no connection is free it waits for one and its time runs. Closed loop: each connection sends its
   next query when it has its answer. Ten digits MARK in the body are replaced by FIRST_NUMBER + the query's number, so
   that no two inputs are the same. At SIGTERM no further query leaves, and those that wait for answers get them. Writes a
   line of JSON, then a `struct record` for each query that was due until then. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MARK "0123456789"
#define DIGITS 10
#define FIRST_NUMBER 1000000000L
#define LEAD_SECONDS 0.1      /* from when all connections are open until the first query can be due */
#define BACK_OFF_SECONDS 0.02 /* a connection that failed rests as long */
#define MAX_REASONS 64
#define REASON_SIZE 160
#define ANSWER_SIZE 65536
#define EVENTS 256

enum outcome { OK, DEFAULT, ERROR, UNANSWERED, WRONG };
enum state { CLOSED, CONNECTING, OPEN };

struct record { /* generator.py reads these */
    double due;     /* seconds after the start */
    float latency;  /* seconds after due */
    float lateness; /* written so many seconds after due */
    int32_t outcome;
    int32_t reason; /* its place among the reasons, or -1 */
};

struct connection {
    int fd;
    enum state state;
    long query; /* or -1 */
    char *request;
    size_t sent;
    size_t have;
    bool wants_write;
    double rested; /* not to be used before */
    char answer[ANSWER_SIZE];
};

struct ring { /* of connections; there is room for all */
    struct connection **items;
    size_t first, count;
};

static struct {
    int port, connections;
    long queries, first;
    double seconds, grace;
    bool open_loop, echo, outputs;
    const char *host, *path, *body;
} load = {.connections = 64, .grace = 3, .host = "127.0.0.1", .path = "/"};

static struct record *records;
static struct { char text[REASON_SIZE]; long count; } reasons[MAX_REASONS];
static struct ring idle, resting;
static struct connection *all;
static char *request;
static size_t request_size;
static long mark_at = -1, next_query, finished, surplus;
static double started;
static int poller;
static volatile sig_atomic_t told_to_end;

static void fail(const char *what) {
    fprintf(stderr, "generator: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void push(struct ring *ring, struct connection *c) {
    ring->items[(ring->first + ring->count++) % load.connections] = c;
}

static struct connection *pop(struct ring *ring) {
    struct connection *c = ring->items[ring->first];
    ring->first = (ring->first + 1) % load.connections;
    ring->count--;
    return c;
}

/* --- answers --- */

static int count_reason(const char *text, size_t size) {
    if (size >= REASON_SIZE) size = REASON_SIZE - 1;
    for (int i = 0; i < MAX_REASONS; i++) {
        if (!reasons[i].count) memcpy(reasons[i].text, text, size);
        else if (strlen(reasons[i].text) != size || memcmp(reasons[i].text, text, size)) continue;
        reasons[i].count++;
        return i;
    }
    return -1;
}

/* A connection that has no query any more is free again, at once or after a rest. */
static void finish(struct connection *c, enum outcome outcome, const char *reason, size_t size) {
    struct record *r = &records[c->query];
    r->latency = now() - started - r->due;
    r->outcome = outcome;
    r->reason = reason ? count_reason(reason, size) : -1;
    c->query = -1;
    finished++;
    if (outcome == ERROR && c->state == CLOSED) {
        c->rested = now() + BACK_OFF_SECONDS;
        push(&resting, c);
    } else {
        push(&idle, c);
    }
}

static void hang_up(struct connection *c, const char *why) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
    c->have = 0;
    if (c->query >= 0) finish(c, ERROR, why, strlen(why));
}

static void judge(struct connection *c, char *body, size_t size) {
    char number[32];
    const char *found;
    if (memcmp(c->answer, "HTTP/1.1 200", 12)) {
        char reason[] = "status ...";
        memcpy(reason + 7, c->answer + 9, 3);
        finish(c, ERROR, reason, strlen(reason));
    } else if (memmem(body, size, "\"default\":true", 14)) {
        static const char key[] = "\"default_explanation\":\"";
        found = memmem(body, size, key, sizeof key - 1);
        found = found ? found + sizeof key - 1 : "no explanation\"";
        finish(c, DEFAULT, found, strcspn(found, "\""));
    } else if (load.echo) {
        int digits = sprintf(number, "\"output\":%ld,", FIRST_NUMBER + load.first + c->query);
        finish(c, memmem(body, size, number, digits) ? OK : WRONG, NULL, 0);
    } else if (load.outputs) {
        static const char key[] = "\"output\":";
        char *end = memmem(body, size, ",\"default\":", 11);
        found = memmem(body, size, key, sizeof key - 1);
        found = found && end ? found + sizeof key - 1 : NULL;
        finish(c, OK, found, found && end > found ? end - found : 0);
    } else {
        finish(c, OK, NULL, 0);
    }
}

/* Bytes of the whole answer, 0 while its head is incomplete, -1 if it cannot be understood. */
static long answer_size(struct connection *c, long *head, bool *is_last) {
    char *end = memmem(c->answer, c->have, "\r\n\r\n", 4);
    if (!end) return 0;
    *head = end + 4 - c->answer;
    *end = 0;
    char *length = strcasestr(c->answer, "\r\ncontent-length:");
    *is_last = strcasestr(c->answer, "\r\nconnection: close");
    *end = '\r';
    return length ? *head + atol(length + 17) : -1;
}

static void receive(struct connection *c) {
    ssize_t got = read(c->fd, c->answer + c->have, ANSWER_SIZE - 1 - c->have);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) return hang_up(c, "the connection was closed");
    c->have += got;
    c->answer[c->have] = 0;
    if (c->query < 0) {
        surplus++;
        return hang_up(c, "");
    }
    bool is_last = false;
    long head = 0, size = answer_size(c, &head, &is_last);
    if (size < 0 || size >= ANSWER_SIZE) return hang_up(c, "an answer without Content-Length, or too long");
    if (!size || (long)c->have < size) return;
    surplus += (long)c->have > size;
    c->have = 0;
    if (is_last) {
        close(c->fd);
        c->fd = -1;
        c->state = CLOSED;
    }
    judge(c, c->answer + head, size - head);
}

/* --- queries --- */

static void watch(struct connection *c, int operation, bool write) {
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event)) fail("epoll_ctl");
    c->wants_write = write;
}

static void write_request(struct connection *c) {
    ssize_t done = write(c->fd, c->request + c->sent, request_size - c->sent);
    if (done < 0 && errno != EAGAIN && errno != EINTR) return hang_up(c, "the connection was closed");
    if (done > 0) c->sent += done;
    bool more = c->sent < request_size;
    if (more != c->wants_write) watch(c, EPOLL_CTL_MOD, more);
}

static void start_connection(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(load.port)};
    int yes = 1;
    inet_pton(AF_INET, load.host, &address.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        return hang_up(c, "no connection");
    c->state = CONNECTING;
    watch(c, EPOLL_CTL_ADD, true);
}

static void finish_connection(struct connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) return hang_up(c, "no connection");
    c->state = OPEN;
    if (c->query >= 0) write_request(c);
    else watch(c, EPOLL_CTL_MOD, false);
}

static void send_query(struct connection *c, long query) {
    char number[DIGITS + 1];
    struct record *r = &records[query];
    double at = now() - started;
    if (!load.open_loop) r->due = at;
    r->lateness = at - r->due;
    if (mark_at >= 0) {
        snprintf(number, sizeof number, "%010ld", FIRST_NUMBER + load.first + query);
        memcpy(c->request + mark_at, number, DIGITS);
    }
    c->query = query;
    c->sent = 0;
    if (c->state == CLOSED) start_connection(c);
    else write_request(c);
}

static void handle(struct connection *c, uint32_t events) {
    if (c->state == CONNECTING) return finish_connection(c);
    if (events & EPOLLOUT && c->query >= 0) write_request(c);
    if (events & ~EPOLLOUT && c->state == OPEN) receive(c);
}

static void poll_for(double seconds) {
    struct epoll_event events[EVENTS];
    if (seconds < 0) seconds = 0;
    struct timespec wait = {seconds, (seconds - (long)seconds) * 1e9};
    int count = epoll_pwait2(poller, events, EVENTS, &wait, NULL);
    if (count < 0 && errno != EINTR) fail("epoll_pwait2");
    for (int i = 0; i < count; i++) handle(events[i].data.ptr, events[i].events);
}

static void offer(void) {
    double last_due = load.open_loop && load.queries ? records[load.queries - 1].due : load.seconds;
    double end = last_due + load.grace;
    for (;;) {
        double at = now() - started, wake = end;
        if (told_to_end && next_query < load.queries) {
            load.queries = next_query;
            wake = end = at + load.grace;
        }
        while (resting.count && resting.items[resting.first]->rested <= at + started) push(&idle, pop(&resting));
        while (idle.count && next_query < load.queries && (load.open_loop ? records[next_query].due : 0) <= at
               && (load.open_loop || at < load.seconds)) {
            send_query(pop(&idle), next_query++);
            at = now() - started;
        }
        bool more = next_query < load.queries && (load.open_loop || at < load.seconds);
        if (at >= end || (!more && finished == next_query)) return;
        if (more && idle.count && records[next_query].due < wake) wake = records[next_query].due;
        if (resting.count && resting.items[resting.first]->rested - started < wake)
            wake = resting.items[resting.first]->rested - started;
        poll_for(wake - at);
    }
}

/* --- start and end --- */

static void *allocate(size_t count, size_t size) {
    void *made = calloc(count ? count : 1, size);
    if (!made) fail("memory");
    return made;
}

static void read_due_times(void) {
    size_t got = 0, room = 1 << 16;
    double *due = allocate(room, sizeof *due);
    for (size_t count; (count = fread(due + got, sizeof *due, room - got, stdin)); got += count)
        if (got + count == room && !(due = realloc(due, (room *= 2) * sizeof *due))) fail("memory");
    load.queries = got;
    records = allocate(got, sizeof *records);
    for (size_t i = 0; i < got; i++) records[i].due = due[i];
    free(due);
}

static void make_request(void) {
    FILE *file = fopen(load.body, "rb");
    if (!file) fail(load.body);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    request = allocate(size + strlen(load.path) + strlen(load.host) + 256, 1);
    request_size = sprintf(request,
        "POST %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\nContent-Length: %ld\r\n\r\n",
        load.path, load.host, load.port, size);
    request_size += fread(request + request_size, 1, size, file);
    fclose(file);
    char *mark = memmem(request, request_size, MARK, DIGITS);
    if (mark) mark_at = mark - request;
}

static void open_connections(void) {
    all = allocate(load.connections, sizeof *all);
    idle.items = allocate(load.connections, sizeof *idle.items);
    resting.items = allocate(load.connections, sizeof *resting.items);
    for (int i = 0; i < load.connections; i++) {
        struct connection *c = &all[i];
        c->query = -1;
        c->request = allocate(request_size, 1);
        memcpy(c->request, request, request_size);
        start_connection(c);
        while (c->state == CONNECTING) poll_for(1);
        if (c->state == CLOSED) fail("no connection");
        push(&idle, c);
    }
}

static void print_json(const char *text) {
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar((unsigned char)*text < ' ' ? '?' : *text);
    }
}

static void report(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"started\":%.9f,\"ended\":%.9f,\"cpu_seconds\":%.6f,\"surplus\":%ld,\"reasons\":{",
           started, now() - started, cpu, surplus);
    for (int i = 0; i < MAX_REASONS && reasons[i].count; i++) {
        printf("%s\"", i ? "," : "");
        print_json(reasons[i].text);
        printf("\":%ld", reasons[i].count);
    }
    printf("}}\n");
    fwrite(records, sizeof *records, load.open_loop ? load.queries : next_query, stdout);
    if (fflush(stdout)) fail("stdout");
}

static void parse(int count, char **arguments) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'}, {"path", 1, 0, 'P'}, {"body", 1, 0, 'b'}, {"connections", 1, 0, 'c'}, {"queries", 1, 0, 'q'},
        {"seconds", 1, 0, 's'}, {"grace", 1, 0, 'g'}, {"first", 1, 0, 'f'}, {"open-loop", 0, 0, 'o'},
        {"echo", 0, 0, 'e'}, {"host", 1, 0, 'h'}, {"outputs", 0, 0, 'O'}, {0, 0, 0, 0}};
    for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;) switch (option) {
        case 'p': load.port = atoi(optarg); break;
        case 'P': load.path = optarg; break;
        case 'b': load.body = optarg; break;
        case 'c': load.connections = atoi(optarg); break;
        case 'q': load.queries = atol(optarg); break;
        case 's': load.seconds = atof(optarg); break;
        case 'g': load.grace = atof(optarg); break;
        case 'f': load.first = atol(optarg); break;
        case 'o': load.open_loop = true; break;
        case 'e': load.echo = true; break;
        case 'h': load.host = optarg; break;
        case 'O': load.outputs = true; break;
        default: exit(2);
    }
    if (!load.port || !load.body || load.connections < 1) {
        fprintf(stderr, "generator: --port, --body and at least one connection are needed\n");
        exit(2);
    }
}

static void on_signal(int number) {
    (void)number;
    told_to_end = true;
}

int main(int count, char **arguments) {
    parse(count, arguments);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_signal}, NULL);
    prctl(PR_SET_TIMERSLACK, 1000); /* nanoseconds; 50,000 is usual */
    if (load.open_loop) read_due_times();
    else records = allocate(load.queries, sizeof *records);
    for (long i = 0; i < load.queries; i++) records[i].outcome = UNANSWERED, records[i].latency = -1, records[i].reason = -1;
    make_request();
    poller = epoll_create1(0);
    open_connections();
    started = now() + LEAD_SECONDS;
    offer();
    report();
    return 0;
}
