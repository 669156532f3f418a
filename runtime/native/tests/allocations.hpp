// How much memory operator new has given out since an object of this class was made. What was given back in between
// counts as well: the memory in use was never more.
#pragma once

#include <cstddef>

class Allocations {
  public:
    Allocations();
    size_t bytes() const;

  private:
    size_t begin_;
};
