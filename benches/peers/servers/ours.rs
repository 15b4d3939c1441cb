//! ropewalk. `framed` and `session` are the plain ways to write it; `layers` is `framed` under five
//! layers, and `layers-static` the same with a state that is no `Arc`.

use ropewalk_peers::Result;

mod ropewalk_echo;

fn main() -> Result {
    ropewalk_echo::main()
}
