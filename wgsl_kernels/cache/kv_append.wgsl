// Writes keys and values of the step's real tokens into the cache [sequence][key or value][head][position][dim].
// needs: state (Rows), slot (has_slot, slot_of)
@group(0) @binding(0) var<storage, read> k: array<k_type>;
@group(0) @binding(1) var<storage, read> v: array<v_type>;
@group(0) @binding(2) var<storage, read_write> kv: array<kv_type>;
@group(0) @binding(3) var<uniform> state: Rows;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let token = id.y;
  let row = state[token];
  if (id.x >= WIDTH || row.real == 0u || !has_slot(row.position)) { return; }
  let head = id.x / HEAD_DIM;
  let at = token * WIDTH + id.x;
  let key = (((row.sequence * 2u) * KV_HEADS + head) * CAPACITY + slot_of(row.position)) * HEAD_DIM + id.x % HEAD_DIM;
  kv[key] = kv_type(k[at]);
  kv[key + KV_HEADS * CAPACITY * HEAD_DIM] = kv_type(v[at]);
}
