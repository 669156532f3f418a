// valley2.h compiles as C++17, and a C++ program can call the library.
#include "valley2_parts.h"

#include <string>

int main() {
    v2e_geometry geometry{};
    geometry.struct_size = sizeof geometry;
    if (v2e_plan_picture(640, 480, nullptr, &geometry) != V2E_ERROR_INPUT)
        return 1;
    if (std::string(v2e_last_error()).empty())
        return 2;
    return v2e_isa_available(1000) == 0 && std::string(v2e_isa_name(1000)) == "unknown" ? 0 : 3;
}
