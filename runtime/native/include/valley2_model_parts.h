/* valley2_model_parts.h: the parts of an open model, for the tools and the tests of this project.
 *
 * The rules of valley2_parts.h hold. A part is the model's own, with its threads, weights and caches: what is computed
 * with it is what a session computes. It keeps the model, so that handles may be closed in any order.
 */
#ifndef VALLEY2_MODEL_PARTS_H
#define VALLEY2_MODEL_PARTS_H

#include "valley2.h"
#include "valley2_parts.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Close it with v2e_tokenizer_close. */
V2E_API v2e_status v2e_model_tokenizer(const v2e_model *model, v2e_tokenizer **tokenizer);
/* Close it with v2e_decoder_close, after its sessions. */
V2E_API v2e_status v2e_model_decoder(const v2e_model *model, v2e_decoder **decoder);
/* Close it with v2e_vision_close. A budget or a `keep` that is changed here changes for the sessions as well. */
V2E_API v2e_status v2e_model_vision(const v2e_model *model, v2e_vision **vision);

#ifdef __cplusplus
}
#endif

#endif /* VALLEY2_MODEL_PARTS_H */
