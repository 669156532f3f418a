#include "base/mapping_guard_posix.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <sys/mman.h>

namespace v2e {

struct GuardedMapping {
    std::atomic<uintptr_t> begin{0}, end{0}; // whole pages; 0: the guard is free to be used again
    std::atomic<bool> lost{false};
    int descriptor = -1;
    off_t size = 0;
    int64_t modified = 0;           // nanoseconds
    GuardedMapping *next = nullptr; // they are never freed: a handler may be reading them
};

namespace {

std::atomic<GuardedMapping *> guarded_mappings{nullptr};
std::mutex guard_mutex; // protects what follows; the handler does not take it
size_t guarded_count = 0;
bool handler_installed = false;
struct sigaction handler_before; // written before the handler is there
uintptr_t page_bytes = 0;        // likewise

bool replace_lost_pages(uintptr_t address) {
    for (GuardedMapping *mapping = guarded_mappings.load(); mapping != nullptr; mapping = mapping->next) {
        const uintptr_t begin = mapping->begin.load(), end = mapping->end.load();
        if (begin == 0 || address < begin || address >= end)
            continue;
        const uintptr_t first = address - address % page_bytes;
        // The pages behind it are lost as well, and nothing puts them back: one signal is enough for all of them.
        if (mmap(reinterpret_cast<void *>(first), end - first, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) == MAP_FAILED)
            return false;
        mapping->lost.store(true);
        return true;
    }
    return false;
}

void pass_on_bus_error(int signal, siginfo_t *info, void *context) {
    if ((handler_before.sa_flags & SA_SIGINFO) != 0) {
        handler_before.sa_sigaction(signal, info, context);
    } else if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN) {
        handler_before.sa_handler(signal);
    } else if (handler_before.sa_handler == SIG_DFL || info->si_code > 0) {
        // A fault cannot be ignored: it comes again when this returns, and then ends the process.
        if (info->si_code > 0)
            report_lost_page(reinterpret_cast<uintptr_t>(info->si_addr));
        std::signal(signal, SIG_DFL);
        if (info->si_code <= 0)
            raise(signal);
    }
}

void on_bus_error(int signal, siginfo_t *info, void *context) {
    const int error = errno;
    const bool fault = info->si_code > 0; // else a process has sent it, and there is no address
    if (!fault || !replace_lost_pages(reinterpret_cast<uintptr_t>(info->si_addr)))
        pass_on_bus_error(signal, info, context);
    errno = error;
}

void install_handler() {
    if (handler_installed)
        return;
    page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action{};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, nullptr, &handler_before);
    handler_installed = sigaction(SIGBUS, &action, nullptr) == 0;
}

// Another handler that was put in its place may go on calling this one, which then stays for good.
void remove_handler() {
    struct sigaction found;
    if (sigaction(SIGBUS, nullptr, &found) == 0 && (found.sa_flags & SA_SIGINFO) != 0 &&
        found.sa_sigaction == on_bus_error)
        handler_installed = sigaction(SIGBUS, &handler_before, nullptr) != 0;
}

} // namespace

GuardedMapping *guard_mapping(const void *data, FileDescriptor &file, const struct stat &status) {
    const std::lock_guard lock(guard_mutex);
    GuardedMapping *mapping = guarded_mappings.load();
    while (mapping != nullptr && mapping->begin.load() != 0)
        mapping = mapping->next;
    if (mapping == nullptr) {
        mapping = new GuardedMapping;
        mapping->next = guarded_mappings.load();
        guarded_mappings.store(mapping);
    }
    if (guarded_count++ == 0)
        install_handler();
    const auto begin = reinterpret_cast<uintptr_t>(data);
    mapping->lost.store(false);
    mapping->descriptor = file.release();
    mapping->size = status.st_size;
    mapping->modified = file_times(status).modified;
    mapping->end.store(begin + (static_cast<size_t>(status.st_size) + page_bytes - 1) / page_bytes * page_bytes);
    mapping->begin.store(begin);
    return mapping;
}

void end_guard(GuardedMapping &mapping) noexcept {
    const std::lock_guard lock(guard_mutex);
    close(mapping.descriptor);
    mapping.begin.store(0);
    if (--guarded_count == 0)
        remove_handler();
}

bool mapping_changed(const GuardedMapping &mapping) noexcept {
    struct stat status;
    return mapping.lost.load(std::memory_order_relaxed) || fstat(mapping.descriptor, &status) != 0 ||
           status.st_size != mapping.size || file_times(status).modified != mapping.modified;
}

} // namespace v2e
