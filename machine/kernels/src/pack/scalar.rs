//! The definition, which `numeric` has, since it packs what is not worth threads.

use super::Panel;
use numeric::packed::pack_panel;

/// # Safety
/// None needed; the type is that of the other variants.
pub(super) unsafe fn panel(panel: &mut Panel) {
    pack_panel(panel.format, panel.columns, panel.rows, panel.codes, panel.scales);
}
