// The table of an instruction set, whose file includes this text behind all its kernels.

template <class Vector, class Key = typename Vector::Key>
void use(SelectionKernels<Key>& kernels) noexcept {
  kernels.count_below = count_below<Vector>;
  kernels.count_equal = count_equal<Vector>;
  kernels.split = split<Vector>;
  kernels.bracket = bracket<Vector>;
  kernels.threshold = threshold<Vector>;
  kernels.zero_least = zero_least<Vector>;
  kernels.zero_least_down = zero_least_down<Key>;
  kernels.rank_others = rank_others<Key>;
  kernels.rank_within = rank_within<Key>;
}

template <class Element, int norm>
void use(Kernels& table) noexcept {
  constexpr int dtype = Element::dtype;
  table.score[dtype][norm] = score<Element, norm>;
  if constexpr (is_at_once<Element, norm>) {
    table.score_at[dtype][norm] = score_at<Element, norm>;
    table.bracket[dtype][norm] = bracket_blocks<Element, norm>;
    table.zero_least[dtype][norm] = zero_least_elements<Element, norm>;
  }
  if constexpr (has_bracket_mask<Element, norm>) {
    table.bracket_mask[dtype][norm] = bracket_mask<Element, norm>;
  }
  if constexpr (norm != no_norm) table.bracket_ends[dtype][norm] = bracket_ends<Element, norm>;
}

template <class Element>
void use(Kernels& table) noexcept {
  use<Element, 0>(table);
  use<Element, 1>(table);
  use<Element, no_norm>(table);
}

/// What every instruction set has of its own.
Kernels make_table(const char* name) noexcept {
  Kernels table = scalar_kernels();
  table.name = name;
  use<Vector32>(table.select32);
  use<Vector64>(table.select64);
  use<Float16>(table);
  use<BFloat16>(table);
  use<Float32>(table);
  use<Float64>(table);
  table.repeat = repeat_any;
  table.count_zeros = count_zeros;
  table.pack = pack;
  table.unpack = unpack;
  table.expand = expand;
  table.draw = draw;
  table.find_eligible = find_eligible;
  table.mark = mark;
  table.unmark = unmark;
  return table;
}
