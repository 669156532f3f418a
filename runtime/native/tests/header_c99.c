/* valley2.h compiles as strict C99, and a C program can call the library. */
#include "valley2_parts.h"

#include <string.h>

int main(void) {
    v2e_decoder_options options = {sizeof options, 0, V2E_ISA_AUTO, V2E_ACTIVATIONS_INT8};
    v2e_decoder *model = NULL;
    if (v2e_decoder_open("/no/such/directory", &options, &model) != V2E_ERROR_BUNDLE)
        return 1;
    if (v2e_last_error()[0] == '\0')
        return 2;
    if (strcmp(v2e_isa_name(V2E_ISA_PORTABLE), "portable") != 0 || !v2e_isa_available(V2E_ISA_PORTABLE))
        return 3;
    return v2e_version()[0] == '\0';
}
