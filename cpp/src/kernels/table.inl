// The table of an instruction set, whose file includes this text behind all its kernels.

template <class Vector, class Key = typename Vector::Key>
void use(SelectionKernels<Key>& kernels) noexcept {
  kernels.count_below = count_below<Vector>;
  kernels.count_equal = count_equal<Vector>;
  kernels.split = split<Vector>;
  kernels.bracket = bracket<Vector>;
  kernels.threshold = threshold<Vector>;
  kernels.zero_least = zero_least<Vector>;
}

template <class Element>
void use(Kernels& table) noexcept {
  constexpr int dtype = Element::dtype;
  table.score[dtype][0] = score<Element, 0>;
  table.score[dtype][1] = score<Element, 1>;
  table.score_at[dtype][0] = score_at<Element, 0>;
  table.score_at[dtype][1] = score_at<Element, 1>;
  table.bracket[dtype][0] = bracket_blocks<Element, 0>;
  table.bracket[dtype][1] = bracket_blocks<Element, 1>;
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
  return table;
}
