/* A client of many connections that checks every frame, and measures the server.
 *
 * usage: sink PORT PID CREDITS FLUSHES WARMUP TICKS RATE FIRST SUBSCRIBE READY SILENCE_MS STAGE...
 *
 * It opens STAGE connections (each further STAGE adds to them), sends the text SUBSCRIBE on each of a
 * stage once all have their handshake, and waits until each was sent a message that contains READY
 * (both may be empty). Then it grants FLUSHES times: a byte on the file descriptor CREDITS asks the
 * server for TICKS messages to everyone. With RATE 0 the next byte is written when every connection
 * has everything asked for before; else RATE bytes a second are written, come what may.
 *
 * A tick is a text message that begins with {"type":"incr"; an array of them counts one by one. Every
 * connection must get "seq" FIRST, FIRST+1, ... with "prev" one below, each once and in order: the
 * first deviation, a connection that ends, or SILENCE_MS without a tick that is due ends the
 * program with status 3. Frames may share segments or be cut anywhere.
 *
 * CPU is what the kernel counted for all threads of PID and its descendants (schedstat, ns). The
 * first WARMUP flushes are not measured. Delays are from writing the byte to reading the tick.
 * Prints one JSON object.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 1024, BUFFER = 4 << 20, HANDSHAKES_AT_ONCE = 64, SETTLE_MS = 100 };
#define SETTLE_MOST_NS 1000000000u
enum phase { CONNECTING, UPGRADING, OPEN, READY };

struct connection {
    int fd;
    enum phase phase;
    uint64_t seq; /* of the next tick */
    char *rest;   /* of a frame that has not arrived completely */
    size_t rest_size;
};

static struct connection *connections;
static uint32_t opened;
static uint64_t upgraded, ready;
static int poller, timer, credits, pid, port;
static const char *subscribe_text, *ready_text;
static uint64_t first, ticks, flushes, granted, delivered, others, pings, reads, bytes;
static uint64_t *granted_at; /* ns, of each flush */
static uint32_t *delays;     /* of each delivery: us in tenths */
static uint32_t per_client;  /* delays kept for each connection */
static uint64_t warmup;
static int silence_ms;
static FILE *report; /* printed at the end, when nothing was wrong */

static uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Say what is wrong, as JSON, and end. */
static void fault(const char *kind, const char *format, ...)
{
    va_list arguments;
    printf("{\"fault\":\"%s\",\"detail\":\"", kind);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\"}\n");
    exit(3);
}

/* ---------------------------------------------------------------- the server's CPU and memory */

static uint64_t first_number(const char *path, const char *after)
{
    char line[512];
    uint64_t value = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, after, strlen(after)) == 0) {
            value = strtoull(line + strlen(after), NULL, 10);
            break;
        }
    fclose(file);
    return value;
}

/* Sums over a process and its descendants. */
static void usage_of(int process, uint64_t *cpu_ns, uint64_t *rss_kib)
{
    char path[320];
    snprintf(path, sizeof path, "/proc/%d/status", process);
    *rss_kib += first_number(path, "VmRSS:");
    snprintf(path, sizeof path, "/proc/%d/task", process);
    DIR *tasks = opendir(path);
    if (tasks == NULL)
        return;
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", process, task->d_name);
        *cpu_ns += first_number(path, "");
        snprintf(path, sizeof path, "/proc/%d/task/%s/children", process, task->d_name);
        FILE *children = fopen(path, "r");
        for (int child; children != NULL && fscanf(children, "%d", &child) == 1;)
            usage_of(child, cpu_ns, rss_kib);
        if (children != NULL)
            fclose(children);
    }
    closedir(tasks);
}

static uint64_t cpu_ns(void)
{
    uint64_t cpu = 0, rss = 0;
    usage_of(pid, &cpu, &rss);
    return cpu;
}

static uint64_t rss_kib(void)
{
    uint64_t cpu = 0, rss = 0;
    usage_of(pid, &cpu, &rss);
    return rss;
}

/* ---------------------------------------------------------------- messages */

static void send_frame(struct connection *to, uint8_t opcode, const char *data, size_t size)
{
    /* A mask of zeros leaves the payload as it is. */
    char frame[8 + 65536] = {(char)(0x80 | opcode)};
    size_t header = 2;
    if (size < 126) {
        frame[1] = (char)(0x80 | size);
    } else {
        frame[1] = (char)(0x80 | 126);
        frame[2] = (char)(size >> 8);
        frame[3] = (char)size;
        header = 4;
    }
    memset(frame + header, 0, 4);
    memcpy(frame + header + 4, data, size);
    if (send(to->fd, frame, header + 4 + size, MSG_NOSIGNAL) != (ssize_t)(header + 4 + size))
        fault("closed", "a client could not send: %s", strerror(errno));
}

static uint64_t number_behind(const char *message, size_t size, const char *name)
{
    const char *at = memmem(message, size, name, strlen(name));
    uint64_t value = 0;
    if (at == NULL)
        return 0;
    for (at += strlen(name); at < message + size && *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

static void on_tick(struct connection *at, const char *message, size_t size, uint64_t now)
{
    uint64_t seq = number_behind(message, size, "\"seq\":");
    uint32_t number = (uint32_t)(at - connections);

    if (seq > at->seq)
        fault("missing", "client %u got %" PRIu64 ", %" PRIu64 " is due", number, seq, at->seq);
    if (seq < at->seq)
        fault("repeated", "client %u got %" PRIu64 ", %" PRIu64 " is due", number, seq, at->seq);
    if (number_behind(message, size, "\"prev\":") != seq - 1)
        fault("unchained", "client %u got %" PRIu64 " with another prev", number, seq);
    uint64_t flush = (seq - first) / ticks;
    if (flush >= granted)
        fault("unasked", "client %u got %" PRIu64 " of flush %" PRIu64, number, seq, flush);
    if (flush >= warmup)
        delays[(size_t)number * per_client + (seq - first - warmup * ticks)] =
            (uint32_t)((now - granted_at[flush]) / 100);
    at->seq++;
    delivered++;
}

static void on_message(struct connection *at, const char *message, size_t size, uint64_t now)
{
    static const char tick[] = "{\"type\":\"incr\"";
    size_t mark = sizeof tick - 1;

    if (size > mark && memcmp(message, tick, mark) == 0) {
        on_tick(at, message, size, now);
        return;
    }
    if (at->phase == OPEN && ready_text[0] != 0 &&
        memmem(message, size, ready_text, strlen(ready_text)) != NULL) {
        at->phase = READY;
        ready++;
    }
    const char *end = message + size;
    const char *each = size > mark && message[0] == '[' ? memmem(message, size, tick, mark) : NULL;
    others += each == NULL;
    while (each != NULL) {
        const char *next = memmem(each + mark, (size_t)(end - each) - mark, tick, mark);
        on_tick(at, each, (size_t)((next == NULL ? end : next) - each), now);
        each = next;
    }
}

/* Take whole frames; how many bytes they were. */
static size_t take_frames(struct connection *at, const char *data, size_t size, uint64_t now)
{
    size_t taken = 0;
    while (size - taken >= 2) {
        const uint8_t *frame = (const uint8_t *)data + taken;
        size_t length = frame[1] & 127, header = 2;
        if (length == 126) {
            header = 4;
            if (size - taken < header)
                break;
            length = (size_t)frame[2] << 8 | frame[3];
        } else if (length == 127) {
            header = 10;
            if (size - taken < header)
                break;
            length = 0;
            for (int i = 2; i < 10; i++)
                length = length << 8 | frame[i];
        }
        if (size - taken < header + length)
            break;
        if ((frame[0] & 0x70) != 0 || (frame[1] & 0x80) != 0 || length > BUFFER / 2)
            fault("malformed", "frame begins with %02x %02x", frame[0], frame[1]);
        switch (frame[0] & 15) {
        case 1:
            on_message(at, (const char *)frame + header, length, now);
            break;
        case 8:
            fault("closed", "the server closed client %ld", (long)(at - connections));
            break;
        case 9:
            pings++;
            send_frame(at, 10, (const char *)frame + header, length);
            break;
        default:
            fault("malformed", "frame of type %d", frame[0] & 15);
        }
        taken += header + length;
    }
    return taken;
}

/* ---------------------------------------------------------------- connections */

static void watch(struct connection *at, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)(at - connections)};
    epoll_ctl(poller, operation, at->fd, &event);
}

static void open_connection(void)
{
    struct connection *at = &connections[opened++];
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    at->seq = first;
    at->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (at->fd < 0)
        fault("refused", "socket: %s", strerror(errno));
    setsockopt(at->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(at->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fault("refused", "connect: %s", strerror(errno));
    watch(at, EPOLL_CTL_ADD, EPOLLOUT);
}

static void on_connected(struct connection *at)
{
    char request[300];
    int size = snprintf(request, sizeof request,
                        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                        port);
    if (send(at->fd, request, (size_t)size, MSG_NOSIGNAL) != size)
        fault("refused", "send: %s", strerror(errno));
    at->phase = UPGRADING;
    watch(at, EPOLL_CTL_MOD, EPOLLIN);
}

/* The answer to the handshake; how many bytes it was, 0 while it is not complete. */
static size_t take_answer(struct connection *at, const char *data, size_t size)
{
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    if (size < 12 || memcmp(data, "HTTP/1.1 101", 12) != 0)
        fault("refused", "handshake answered by %.12s", data);
    /* What RFC 6455 gives as the answer to the key above. */
    if (memmem(data, size, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 28) == NULL)
        fault("refused", "wrong Sec-WebSocket-Accept");
    at->phase = OPEN;
    upgraded++;
    return (size_t)(end - data) + 4;
}

static void on_readable(struct connection *at)
{
    static char buffer[BUFFER];
    memcpy(buffer, at->rest, at->rest_size);
    ssize_t received = recv(at->fd, buffer + at->rest_size, BUFFER - at->rest_size, 0);
    if (received < 0 && errno == EAGAIN)
        return;
    if (received <= 0)
        fault("closed", "client %ld lost its connection", (long)(at - connections));
    uint64_t now = nanoseconds();
    size_t size = at->rest_size + (size_t)received, taken = 0;
    reads++;
    bytes += (uint64_t)received;
    if (at->phase == UPGRADING)
        taken = take_answer(at, buffer, size);
    if (at->phase != UPGRADING)
        taken += take_frames(at, buffer + taken, size - taken, now);
    if (size - taken > at->rest_size && (at->rest = realloc(at->rest, size - taken)) == NULL)
        fault("memory", "no memory for a rest of %zu bytes", size - taken);
    at->rest_size = size - taken;
    memcpy(at->rest, buffer + taken, at->rest_size);
}

/* Handle what arrives within `wait_ms`; whether anything did. */
static int turn(int wait_ms)
{
    static struct epoll_event events[EVENTS];
    int found = epoll_wait(poller, events, EVENTS, wait_ms);
    for (int i = 0; i < found; i++) {
        if (events[i].data.u32 == UINT32_MAX)
            continue; /* The timer: the caller looks at it. */
        struct connection *at = &connections[events[i].data.u32];
        if (at->phase == CONNECTING)
            on_connected(at);
        else
            on_readable(at);
    }
    return found > 0;
}

/* Let everything come that is on its way, and the server go to sleep, so that its CPU is counted. */
static void settle(void)
{
    uint64_t until = nanoseconds() + SETTLE_MOST_NS;
    while (turn(SETTLE_MS) && nanoseconds() < until)
        ;
}

/* Handle what arrives until `*count` is `wanted`. When it has not changed for `silence_ms`, whatever
 * else arrives, say that `kind` was found. */
static void until(const uint64_t *count, uint64_t wanted, const char *kind, const char *what)
{
    uint64_t before = *count, since = nanoseconds();
    while (*count < wanted) {
        turn(silence_ms);
        if (*count != before) {
            before = *count;
            since = nanoseconds();
        } else if (nanoseconds() - since > (uint64_t)silence_ms * 1000000) {
            fault(kind, "%" PRIu64 " of %" PRIu64 " %s", *count, wanted, what);
        }
    }
}

/* ---------------------------------------------------------------- what is measured */

/* Open connections up to `wanted`, then subscribe them. */
static void stage(uint32_t wanted, int last)
{
    uint32_t before = opened;
    uint64_t cpu = cpu_ns(), since = nanoseconds();
    while (upgraded < wanted) {
        while (opened < wanted && opened - upgraded < HANDSHAKES_AT_ONCE)
            open_connection();
        until(&upgraded, upgraded + 1, "silent", "handshakes were answered");
    }
    uint64_t took = nanoseconds() - since;
    settle();
    fprintf(report, "{\"clients\":%u,\"handshake_s\":%.6f,\"handshake_cpu_s\":%.6f,\"rss_kib\":%" PRIu64,
           wanted, (double)took / 1e9, (double)(cpu_ns() - cpu) / 1e9, rss_kib());
    cpu = cpu_ns();
    since = nanoseconds();
    if (subscribe_text[0] != 0)
        for (uint32_t i = before; i < wanted; i++)
            send_frame(&connections[i], 1, subscribe_text, strlen(subscribe_text));
    if (ready_text[0] != 0)
        until(&ready, wanted, "silent", "clients are subscribed");
    took = nanoseconds() - since;
    settle();
    fprintf(report, ",\"subscribe_s\":%.6f,\"subscribe_cpu_s\":%.6f,\"subscribed_rss_kib\":%" PRIu64 "}%s",
           (double)took / 1e9, (double)(cpu_ns() - cpu) / 1e9, rss_kib(), last ? "" : ",");
}

static void grant(void)
{
    granted_at[granted++] = nanoseconds();
    if (write(credits, "+", 1) != 1)
        fault("closed", "the server reads no credits: %s", strerror(errno));
}

/* Wait until every connection has every tick of the flushes granted so far. */
static void until_delivered(void)
{
    until(&delivered, granted * ticks * opened, "missing", "deliveries came");
}

/* Grant up to `wanted` flushes, `rate` a second. */
static void paced(double rate, uint64_t wanted)
{
    struct itimerspec period = {0};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    uint64_t expirations;
    period.it_interval.tv_sec = (time_t)(1 / rate);
    period.it_interval.tv_nsec = (long)((1 / rate - (double)(time_t)(1 / rate)) * 1e9);
    period.it_value = period.it_interval;
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    timerfd_settime(timer, 0, &period, NULL);
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    while (granted < wanted) {
        turn(silence_ms);
        if (read(timer, &expirations, sizeof expirations) == sizeof expirations)
            while (expirations-- > 0 && granted < wanted)
                grant();
    }
    close(timer);
    until_delivered();
}

static int ascending(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static void print_delays(void)
{
    size_t count = (size_t)per_client * opened;
    uint32_t *of_clients = malloc(sizeof *of_clients * opened);
    if (of_clients == NULL)
        fault("memory", "no memory for %u clients", opened);
    for (uint32_t client = 0; client < opened; client++) {
        uint32_t *own = delays + (size_t)client * per_client;
        qsort(own, per_client, sizeof *own, ascending);
        of_clients[client] = own[per_client / 2];
    }
    qsort(of_clients, opened, sizeof *of_clients, ascending);
    qsort(delays, count, sizeof *delays, ascending);
    fprintf(report, ",\"delay_us\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f,"
           "\"client_median\":%.1f,\"client_slowest\":%.1f}",
           delays[count / 2] / 10.0, delays[(size_t)((double)count * 0.99)] / 10.0,
           delays[count - 1] / 10.0, of_clients[opened / 2] / 10.0, of_clients[opened - 1] / 10.0);
    free(of_clients);
}

int main(int count, char **arguments)
{
    if (count < 13) {
        fprintf(stderr, "usage: sink PORT PID CREDITS FLUSHES WARMUP TICKS RATE FIRST SUBSCRIBE "
                        "READY SILENCE_MS STAGE...\n");
        return 2;
    }
    port = atoi(arguments[1]);
    pid = atoi(arguments[2]);
    credits = atoi(arguments[3]);
    flushes = strtoull(arguments[4], NULL, 10);
    warmup = strtoull(arguments[5], NULL, 10);
    ticks = strtoull(arguments[6], NULL, 10);
    double rate = atof(arguments[7]);
    first = strtoull(arguments[8], NULL, 10);
    subscribe_text = arguments[9];
    ready_text = arguments[10];
    silence_ms = atoi(arguments[11]);
    uint32_t most = (uint32_t)atoi(arguments[count - 1]);

    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    per_client = (uint32_t)((flushes - warmup) * ticks);
    connections = calloc(most, sizeof *connections);
    granted_at = calloc(flushes + 1, sizeof *granted_at);
    delays = calloc((size_t)per_client * most + 1, sizeof *delays);
    poller = epoll_create1(0);
    char *text;
    size_t text_size;
    report = open_memstream(&text, &text_size);
    if (connections == NULL || granted_at == NULL || delays == NULL || report == NULL)
        fault("memory", "no memory for %u clients", most);

    fprintf(report, "{\"rss_kib\":%" PRIu64 ",\"stages\":[", rss_kib());
    for (int i = 12; i < count; i++)
        stage((uint32_t)atoi(arguments[i]), i + 1 == count);
    fputs("]", report);

    if (rate > 0 && warmup > 0)
        paced(rate, warmup);
    while (granted < warmup) {
        grant();
        until_delivered();
    }
    uint64_t delivered_before = delivered, reads_before = reads, bytes_before = bytes;
    uint64_t cpu = cpu_ns(), since = nanoseconds();
    if (rate > 0)
        paced(rate, flushes);
    while (granted < flushes) {
        grant();
        until_delivered();
    }
    uint64_t took = nanoseconds() - since;
    settle();
    cpu = cpu_ns() - cpu;
    fprintf(report, ",\"deliveries\":%" PRIu64 ",\"wall_s\":%.6f,\"cpu_s\":%.6f,\"reads\":%" PRIu64
           ",\"bytes\":%" PRIu64 ",\"others\":%" PRIu64 ",\"pings\":%" PRIu64,
           delivered - delivered_before, (double)took / 1e9, (double)cpu / 1e9,
           reads - reads_before, bytes - bytes_before, others, pings);
    if (per_client > 0)
        print_delays();
    fputs("}\n", report);
    fclose(report);
    fputs(text, stdout);
    return 0;
}
